"""A `spiece.model` of the sentencepiece library as the rules of a `tokenizer.json`."""

import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vjax.config import ConfigError

_UNIGRAM, _CONTROL, _UNKNOWN = 1, 3, 2  # as sentencepiece numbers kinds of models and of pieces
_SPACE = "▁"


def rules(file: pathlib.Path) -> str:
    """The rules that split a text as sentencepiece does and end it with its end token.

    Raises:
        ConfigError: the file cannot be read, or holds another kind of model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as described

    model = described.ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise ConfigError(f"The tokenizer {file} cannot be read: {error}.") from error
    trained, normal = model.trainer_spec, model.normalizer_spec
    if trained.model_type != _UNIGRAM or not 0 <= trained.eos_id < len(model.pieces):
        raise ConfigError(
            f"The tokenizer {file} cannot be read: it is no unigram model with an end."
        )
    made = Tokenizer(
        models.Unigram(
            [(piece.piece, piece.score) for piece in model.pieces],
            unk_id=trained.unk_id,
            byte_fallback=trained.byte_fallback,
        )
    )
    steps: list[normalizers.Normalizer] = []
    if normal.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normal.precompiled_charsmap))
    if normal.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    made.normalizer = normalizers.Sequence(steps)
    scheme = "always" if normal.add_dummy_prefix else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
    special = [piece.piece for piece in model.pieces if piece.type in (_CONTROL, _UNKNOWN)]
    made.add_special_tokens(special)
    end = model.pieces[trained.eos_id].piece
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, trained.eos_id)]
    )
    return made.to_str()

"""Tokenizers: ids as the file says, in any script, and what does not fit."""

import dataclasses
import json

import pytest
import sentencepiece
import tiny
import tiny_wan
from tokenizers import Tokenizer as Rules

from vjax import weights, world
from vjax.config import ConfigError, TextConfig
from vjax.convert import sentences
from vjax.data import tokenizer as making
from vjax.tokenizer import Tokenizer, clean, read

SHIPPED = weights.ASSETS / "default"


def test_ids_are_those_of_the_file():
    text = weights.read_config("default").text
    tokenizer, rules = (
        read(SHIPPED / text.tokenizer, text),
        Rules.from_file(str(SHIPPED / text.tokenizer)),
    )
    texts = ["", "a red circle moves right", "ein grüner Würfel", "赤い球 🔴", "A\nB\t\x00"]
    ids, mask = tokenizer(texts)
    assert ids.shape == mask.shape == (len(texts), text.max_length)
    for row, keep, one in zip(ids, mask, texts, strict=True):
        assert row[keep].tolist() == rules.encode(one).ids
        assert not row[~keep].any()
        assert row[keep][-1] == 1


def test_captions_are_read_whole_by_the_shipped_one():
    text = weights.read_config("default").text
    tokenizer = read(SHIPPED / text.tokenizer, text)
    assert not any(tokenizer.lost(caption) for caption in making.captions(500))
    learned = making.learn(making.captions(2000), 1024)
    caption = next(iter(making.captions(1)))
    config = dataclasses.replace(text, vocab=1024)
    assert Tokenizer(learned, config)([caption])[1].sum() < 20
    assert world.vocabulary()


@pytest.mark.parametrize("spare", [1, 2, 5])
def test_a_long_text_keeps_its_end_token_and_says_what_is_lost(spare):
    tokenizer = tiny.tokenizer(10)
    text = "x" * (8 + spare)  # a byte each, a leading space and the end token
    ids, mask = tokenizer([text])
    assert mask.all()
    assert ids[0, -1] == 1
    assert tokenizer.lost(text) == "x" * spare
    assert tokenizer.lost("x" * 8) == ""
    assert (tokenizer(["x" * 8])[0] == ids).all()


def test_what_cannot_be_a_tokenizer_is_refused(tmp_path):
    config = TextConfig(vocab=259)
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        Tokenizer("{}", config)
    with pytest.raises(ConfigError, match="has 259 tokens, the text encoder 100"):
        Tokenizer(tiny.BYTES, TextConfig(vocab=100))
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.json", config)
    broken = json.loads(tiny.BYTES)
    del broken["model"]["merges"]
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        Tokenizer(json.dumps(broken), config)


def test_ids_that_the_encoder_has_no_vectors_for_are_refused():
    rules = json.loads(tiny.BYTES)
    rules["model"]["vocab"]["a"] = 5000
    tokenizer = Tokenizer(json.dumps(rules), TextConfig(vocab=259))
    tokenizer(["b"])
    with pytest.raises(ConfigError, match="does not fit the text encoder"):
        tokenizer(["a"])
    end = rules["post_processor"]["special_tokens"]["</s>"]
    for ids in ([5000], [1] * 40):  # one that is not there; more than are read
        end["ids"], end["tokens"] = ids, ["</s>"] * len(ids)
        with pytest.raises(ConfigError, match="does not fit the text encoder"):
            Tokenizer(json.dumps(rules), TextConfig(vocab=259, max_length=32))


def test_rules_that_fail_on_a_text_are_named():
    words = {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "none"}
    rules = {**json.loads(tiny.BYTES), "model": words, "post_processor": None}
    tokenizer = Tokenizer(json.dumps(rules), TextConfig(vocab=259))
    for read_text in (lambda: tokenizer(["a"]), lambda: tokenizer.lost("a")):
        with pytest.raises(ConfigError, match="cannot read a text"):
            read_text()


def test_the_command_replaces_nothing(tmp_path, capsys):
    file = tmp_path / "tokenizer.json"
    command = [str(file), "--captions", "50", "--vocab", "300"]
    assert making.main(command) == 0
    before = file.read_bytes()
    assert making.main(command) == 1
    assert "File exists" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.fixture(scope="module", params=[True, False], ids=["bytes", "no bytes"])
def pieces(request, tmp_path_factory):
    """A sentencepiece model with the special tokens of T5."""
    trained = tmp_path_factory.mktemp("pieces") / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*making.captions(300), "in 2023 赤い球 は 跳ねる"] * 2),
        model_prefix=str(trained),
        vocab_size=500,
        hard_vocab_limit=False,
        byte_fallback=request.param,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return trained.with_suffix(".model")


def test_a_sentencepiece_model_splits_as_its_library_does(pieces):
    own = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    tokenizer = Tokenizer(sentences.rules(pieces), TextConfig(vocab=500))
    texts = ["", "2023", "a red circle 🔴", "赤い球", " two  spaces ", "Ünï ½ ﬁ", "a\tb\nc"]
    ids, mask = tokenizer(texts)
    for row, keep, text in zip(ids, mask, texts, strict=True):
        assert row[keep].tolist() == [*own.encode(text), 1], text


def test_what_is_no_sentencepiece_model_is_refused(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\xff" * 9)
    with pytest.raises(ConfigError, match=r"spiece\.model cannot be read"):
        sentences.rules(tmp_path / "spiece.model")


def test_a_text_is_mended_as_wan_does():
    plain = tiny.tokenizer(32)
    mending = Tokenizer(tiny.BYTES, dataclasses.replace(plain.config, clean=True))
    for text, mended in (
        ("  a  cat\n&amp;amp; dog ", "a cat & dog"),
        ("schÃ¶n â€” “so”", 'schön — "so"'),
    ):
        assert clean(text) == mended
        assert (mending([text])[0] == plain([mended])[0]).all()
    long = "x" * 29 + "  yz"
    assert mending.lost(long) == plain.lost("x" * 29 + " yz") != ""


@pytest.mark.parametrize("length", [511, 512, 513])
def test_a_long_prompt_is_cut_to_512_with_its_end(length):
    tokenizer = tiny.tokenizer(512)
    ids, mask = tokenizer(["x" * (length - 2)])  # and a leading space, and the end
    assert mask.sum() == min(length, 512)
    assert ids[0, min(length, 512) - 1] == 1
    assert tokenizer.lost("x" * (length - 2)) == "x" * (length - 512)


def test_a_directory_needs_only_one_of_the_two_files(pieces, tmp_path):
    name = tiny_wan.write(tmp_path / "model", "t2v")
    text = dataclasses.replace(weights.read_config(name).text, vocab=500)
    model = dataclasses.replace(weights.read_config(name), text=text)
    folder = tmp_path / "model" / "tokenizer"
    assert weights.tokenizer_of(name, model).rules == tiny.BYTES
    (folder / "spiece.model").write_bytes(pieces.read_bytes())
    assert weights.tokenizer_of(name, model).rules == tiny.BYTES
    (folder / "tokenizer.json").unlink()
    assert weights.tokenizer_of(name, model).rules == sentences.rules(pieces)
    (folder / "spiece.model").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        weights.tokenizer_of(name, model)

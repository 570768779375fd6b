"""Text to token ids, as the `tokenizer.json` of a bundle says."""

import html
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Encoding
from tokenizers import Tokenizer as Rules

from vjax.config import ConfigError, TextConfig


class Tokenizer:
    """The rules of one `tokenizer.json`, and how many tokens its text encoder reads.

    Args:
        rules: the text of the file. It is kept as it is, so that a bundle is saved with the very
            tokenizer that it was loaded with.

    Raises:
        ConfigError: the file has no such rules, or more ids than the encoder has vectors for. So
            does a text whose ids are beyond them, or for which the rules fail.
    """

    def __init__(self, rules: str, config: TextConfig):
        self.rules, self.config = rules, config
        try:
            self._whole, self._cut = Rules.from_str(rules), Rules.from_str(rules)
        except Exception as error:  # the library raises nothing more exact
            raise ConfigError(f"{config.tokenizer} holds no tokenizer: {error}.") from error
        size = self._whole.get_vocab_size()
        if size > config.vocab:
            raise ConfigError(
                f"{config.tokenizer} has {size} tokens, the text encoder {config.vocab}."
            )
        for encoder in (self._whole, self._cut):
            encoder.no_padding()
        self._whole.no_truncation()
        self._cut.enable_truncation(config.max_length)
        self([""])  # what ends every text fits

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
        """Ids and mask, padded with zeros to what the encoder reads.

        A longer text loses the end of its words; the tokens that end every text stay.
        """
        length = self.config.max_length
        encodings = self._encoded(self._cut, [self._mended(text) for text in texts])
        ids = np.zeros((len(texts), length), np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, encoding in enumerate(encodings):
            if len(encoding.ids) > length or max(encoding.ids, default=0) >= self.config.vocab:
                raise ConfigError(
                    f"{self.config.tokenizer} does not fit the text encoder, which reads {length} "
                    f"of {self.config.vocab} tokens: take that of the same model."
                )
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = True
        return ids, mask

    def lost(self, text: str) -> str:
        """The end of a text that is not read; empty where all of it is."""
        text = self._mended(text)
        (whole,) = self._encoded(self._whole, [text])
        spare = len(whole.ids) - self.config.max_length
        if spare <= 0:
            return ""
        spans = zip(whole.offsets, whole.special_tokens_mask, strict=True)
        words = [span for span, special in spans if not special]
        return text[words[-spare][0] :]

    def _mended(self, text: str) -> str:
        return clean(text) if self.config.clean else text

    def _encoded(self, rules: Rules, texts: Sequence[str]) -> list[Encoding]:
        try:
            return rules.encode_batch(list(texts))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # where the library gives up, that is no Exception
            raise ConfigError(f"{self.config.tokenizer} cannot read a text: {error}.") from error


def clean(text: str) -> str:
    """A text as Wan reads it: mended, without HTML's escapes, one space between words."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def read(path: pathlib.Path | str, config: TextConfig) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        ConfigError: there is no such file, or it holds no tokenizer.
    """
    try:
        return Tokenizer(pathlib.Path(path).read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The tokenizer {path} cannot be read: {error}.") from error

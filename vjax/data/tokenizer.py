"""Makes a tokenizer from the captions of the captioned world.

    python -m vjax.data.tokenizer tokenizer.json

Byte-level BPE: any text has ids, and what captions say often has few.
"""

import argparse
import errno
import os
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from vjax import world

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as T5 has them


def learn(texts: Iterable[str], vocab: int) -> str:
    """The text of a `tokenizer.json` with at most `vocab` tokens; 259 are single bytes alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def captions(count: int) -> Iterable[str]:
    """Captions of training clips, half of them long."""
    for index in range(count):
        rng = np.random.default_rng((653, index))
        facts = world.sample_facts(rng, 2.0)
        yield world.caption(facts, rng, long=index % 2 == 1)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.data.tokenizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", help="the file to write, which must not be there yet")
    parser.add_argument("--vocab", type=int, default=1024, help="tokens at most (1024)")
    parser.add_argument("--captions", type=int, default=20_000, help="to learn from (20000)")
    options = parser.parse_args(arguments)
    file = pathlib.Path(options.out)
    try:
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        rules = learn(captions(options.captions), options.vocab)
        with file.open("x", encoding="utf-8") as written:
            written.write(rules)
    except OSError as error:
        print(f"vjax.data.tokenizer: {options.out}: {error.strerror}.", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

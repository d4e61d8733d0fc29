"""Train a SentencePiece vocabulary on a corpus, or add pieces to an existing one.

Training reads the corpora that prepare reads and writes a byte-pair encoding from which
any text round-trips. With --from, sentinels and mode tokens that UL2 needs are appended
to a vocabulary; its other tokens, and how it encodes text, stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses

from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax vocabulary --corpus=my_text --size=32000 --output=my.model
  salt_jax vocabulary --corpus=tfds:c4/en --size=256000 --output=c4.model
  salt_jax vocabulary --from=my.model --sentinels=100 --mode_tokens=[R],[S],[X] \\
      --output=my_ul2.model"""

_TRAINING_OPTIONS = ("split", "text_field", "data_dir", "module", "max_lines", "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of vocabulary."""

    output: str
    corpus: str | None = None
    source: str | None = None
    size: int | None = None
    split: str = "train"
    text_field: str = "text"
    data_dir: str | None = None
    module: str | None = None
    max_lines: int = 5_000_000
    seed: int = 0
    sentinels: int = 100
    mode_tokens: str = ""

    def __post_init__(self):
        if (self.corpus is None) == (self.source is None):
            raise ValueError(
                f"Give either --corpus to train on or --from to extend, got "
                f"--corpus={self.corpus} and --from={self.source}."
            )
        if (self.corpus is None) != (self.size is None):
            raise ValueError(
                f"--size goes with --corpus, got --corpus={self.corpus} and "
                f"--size={self.size}."
            )
        if self.source is not None:
            self._refuse_training_options()
        if self.sentinels < 0:
            raise ValueError(f"--sentinels must be 0 or more, got {self.sentinels}.")

    def _refuse_training_options(self) -> None:
        for field in dataclasses.fields(self):
            is_default = getattr(self, field.name) == field.default
            if field.name in _TRAINING_OPTIONS and not is_default:
                raise ValueError(
                    f"--{field.name} is for --corpus, got it with --from={self.source}."
                )

    @property
    def mode_token_names(self) -> list[str]:
        """The names between the commas of --mode_tokens."""
        return [name for name in self.mode_tokens.split(",") if name]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of vocabulary."""
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="file to write (required)"
    )
    _add_training(parser)
    group = parser.add_argument_group("control pieces (the last tokens)")
    group.add_argument(
        "--from", dest="source", metavar="FILE", help="vocabulary to extend"
    )
    group.add_argument(
        "--sentinels",
        type=int,
        metavar="N",
        help="have <extra_id_0> to <extra_id_{N-1}> (default: %(default)s)",
    )
    group.add_argument(
        "--mode_tokens",
        metavar="A,B",
        help="have these pieces, one per denoiser, such as [R],[S],[X]",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--corpus",
        metavar="DIR",
        help="corpus to train on: a folder of JSON lines or Parquet, tfds:NAME, "
        "seqio:NAME or embedded:minipile",
    )
    group.add_argument(
        "--size", type=int, metavar="N", help="tokens, control pieces included"
    )
    group.add_argument(
        "--split", metavar="NAME", help="split of the corpus (default: %(default)s)"
    )
    group.add_argument(
        "--text_field",
        metavar="NAME",
        help="field that holds the text, nested ones with dots (default: %(default)s)",
    )
    group.add_argument("--data_dir", metavar="DIR", help="where tfds:NAME is on disk")
    group.add_argument(
        "--module", metavar="NAME", help="module to import, which registers seqio:NAME"
    )
    group.add_argument(
        "--max_lines",
        type=int,
        metavar="N",
        help="lines of text to train on, held in memory; a larger corpus is sampled "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the sample (default: %(default)s)",
    )


def run(options: Options) -> int:
    """Writes the vocabulary.

    Raises:
      FileNotFoundError: the corpus or the vocabulary to extend is missing.
      ValueError: the corpus has too little text, no piece is to be added, or the output
        exists.
    """
    from etils import epath

    from salt_jax.data.vocabulary import Vocabulary
    from salt_jax.data.vocabulary_training import check_new, write_vocabulary

    output = epath.Path(options.output)
    check_new(output)
    with alone_at(output):
        contents = _extended(options) if options.corpus is None else _trained(options)
        write_vocabulary(output, contents)
    size = Vocabulary.open(output).size
    print(
        f"{output} has {size:,} tokens: models that use it need a vocab_size of at "
        f"least {size}."
    )
    return 0


def _trained(options: Options) -> bytes:
    from salt_jax.data.corpora import corpus
    from salt_jax.data.corpora.document import Fields
    from salt_jax.data.vocabulary_training import VocabularyTraining, sentinels

    assert options.corpus is not None and options.size is not None
    control = (*sentinels(options.sentinels), *options.mode_token_names)
    training = VocabularyTraining(
        size=options.size,
        control_pieces=control,
        max_lines=options.max_lines,
        seed=options.seed,
    )
    parts = corpus.split_parts(
        options.corpus,
        options.split,
        # No domain is needed to learn how text is spelled.
        Fields(text=options.text_field, default_domain="any"),
        data_dir=options.data_dir,
        module=options.module,
    )
    return training.run(parts)


def _extended(options: Options) -> bytes:
    from salt_jax.data.vocabulary import Vocabulary
    from salt_jax.data.vocabulary_training import sentinels

    assert options.source is not None
    vocabulary = Vocabulary.open(options.source)
    wanted = [*sentinels(options.sentinels), *options.mode_token_names]
    missing = [name for name in wanted if vocabulary.codec.find(name) is None]
    if not missing:
        raise ValueError(
            f"{options.source} has all of the {len(wanted)} pieces already: use it as "
            "it is."
        )
    if vocabulary.path.suffix != "." + options.output.rpartition(".")[2]:
        raise ValueError(
            f"--output={options.output} must end in {vocabulary.path.suffix}, as "
            f"{options.source} does: the ending says which kind of file it is."
        )
    return vocabulary.add_control_pieces(missing)

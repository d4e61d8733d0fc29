"""From text to fixed-length sequences on disk.

The documents of a split are tokenised, each ended by the vocabulary's end token,
shuffled whatever their domain, joined, and cut every `seq_len` tokens. No token is
lost: the last sequence is padded.

A split is written beside its place and renamed into it, so it is there whole or not at
all; a killed run begins its split again. The bytes written depend on the corpus, the
vocabulary, the sequence length, the seed and the size of a shard, and on nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from absl import logging
from array_record.python import array_record_module
from etils import epath

from salt_jax.data import corpus
from salt_jax.data.cut import Cut
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.manifest import NAME, Manifest, Settings, Shard
from salt_jax.data.tokenise import Text, tokenise
from salt_jax.data.vocabulary import Vocabulary

# Records alone in their chunks can be read one by one. Compressing such small chunks
# made them larger: 15.0 MB instead of 14.4 for random 12-bit tokens.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a corpus becomes sequences."""

    corpus: str  # A folder in the Pile's layout, or "embedded:minipile".
    vocabulary: str
    output: str  # A folder; each split becomes one inside it.
    seq_len: int
    seed: int = 0
    splits: Sequence[str] = ("train", "val", "test")
    max_bad_share: float = 0.001  # Of the lines, that are no documents.
    sequences_per_shard: int = 16_384
    num_threads: int | None = None  # By default, one a processor.

    def __post_init__(self):
        if self.seq_len < 2:
            raise ValueError(f"seq_len must be at least 2, got {self.seq_len}.")
        if not 0.0 <= self.max_bad_share < 1.0:
            raise ValueError(
                f"max_bad_share must be in [0, 1), got {self.max_bad_share}."
            )
        for name in ("sequences_per_shard", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if isinstance(self.splits, str) or not self.splits:
            raise ValueError(f"splits must be names in a tuple, got {self.splits!r}.")


def prepare(
    preparation: Preparation, progress: Callable[[str], None] = logging.info
) -> dict[str, PreparedDataset]:
    """Prepares every split that is not prepared yet.

    Args:
      preparation: What to prepare, and where.
      progress: Called with a line when something begins or ends.

    Returns:
      The prepared splits, by name.

    Raises:
      FileNotFoundError: the corpus, a split of it or the vocabulary is missing.
      ValueError: the output holds something else; the corpus is damaged or empty, or
        too many of its lines are no documents.
      OSError: the disk is full.
    """
    vocabulary = Vocabulary.open(preparation.vocabulary)
    # Before the first split is tokenised, so that no mistake is found after hours.
    files = {
        split: corpus.split_files(preparation.corpus, split)
        for split in preparation.splits
    }
    settings = {
        split: Settings(
            split=split,
            seq_len=preparation.seq_len,
            seed=preparation.seed,
            sequences_per_shard=preparation.sequences_per_shard,
            vocabulary_fingerprint=vocabulary.fingerprint,
            corpus_fingerprint=corpus.fingerprint(files[split]),
        )
        for split in preparation.splits
    }
    places = {split: epath.Path(preparation.output) / split for split in files}
    done = {split: _is_complete(places[split], settings[split]) for split in files}
    for split, place in places.items():
        if done[split]:
            progress(f"{place} is complete.")
            continue
        progress(f"Tokenising {split!r}: {len(files[split])} files.")
        num_threads = preparation.num_threads or os.cpu_count() or 1
        text = tokenise(files[split], vocabulary, num_threads=num_threads)
        _check_lines(text, preparation.max_bad_share, progress)
        manifest = _write_split(place, text, settings[split], vocabulary)
        progress(
            f"{place} holds {manifest.num_tokens:,} tokens in {manifest.count:,} "
            f"sequences of {manifest.seq_len}, {len(manifest.shards)} shards."
        )
    return {split: PreparedDataset.open(place) for split, place in places.items()}


def _is_complete(place: epath.Path, settings: Settings) -> bool:
    """Returns whether `place` holds the split; refuses if it holds another."""
    if not place.exists():
        return False
    found = PreparedDataset.open(place).manifest.settings
    wanted = dataclasses.asdict(settings)
    other = [
        f"{name}={value!r}, not {wanted[name]!r}"
        for name, value in dataclasses.asdict(found).items()
        if value != wanted[name]
    ]
    if other:
        raise ValueError(
            f"{place} was prepared with {'; '.join(other)}. Give another output, or "
            "delete it first."
        )
    return True


def _check_lines(
    text: Text, max_bad_share: float, progress: Callable[[str], None]
) -> None:
    """Reports lines that are no documents; refuses when they are too many."""
    num_bad = len(text.bad_lines)
    num_lines = num_bad + len(text.lengths)
    if not num_bad:
        return
    found = (
        f"{num_bad:,} of {num_lines:,} lines are no documents; the first is "
        f"{text.bad_lines[0]}."
    )
    if num_bad > max_bad_share * num_lines:
        raise ValueError(
            f"{found} Allowed is a share of max_bad_share={max_bad_share}: mend the "
            "corpus, or raise it to leave such lines out."
        )
    progress(f"{found} Leaving them out.")


def _write_split(
    place: epath.Path, text: Text, settings: Settings, vocabulary: Vocabulary
) -> Manifest:
    """Shuffles, joins, cuts and writes; `place` appears when all of it is done."""
    cut = Cut.shuffled(text, seq_len=settings.seq_len, seed=settings.seed)
    partial = place.parent / f".{place.name}.partial"
    if partial.exists():
        partial.rmtree()
    partial.mkdir(parents=True)
    manifest = Manifest(
        settings=settings,
        vocabulary_size=vocabulary.size,
        pad_id=vocabulary.pad_id,
        eos_id=vocabulary.eos_id,
        count=len(cut),
        num_tokens=len(text.tokens),
        num_bad_lines=len(text.bad_lines),
        domains=cut.domain_names,
        domain_counts=cut.domain_counts(),
        shards=tuple(_write_shards(partial, cut, settings.sequences_per_shard)),
    )
    (partial / NAME).write_text(manifest.to_json())
    partial.rename(place)
    return manifest


def _write_shards(folder: epath.Path, cut: Cut, per_shard: int) -> Iterator[Shard]:
    num_shards = -(-len(cut) // per_shard)
    records = cut.records()
    for index in range(num_shards):
        path = folder / f"sequences-{index:05}-of-{num_shards:05}.array_record"
        count = min(per_shard, len(cut) - index * per_shard)
        _write_shard(path, itertools.islice(records, count))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        yield Shard(name=path.name, count=count, sha256=sha256)


def _write_shard(path: epath.Path, records: Iterator[bytes]) -> None:
    try:
        writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:
        raise OSError(
            f"Cannot write {path}: {error}. Make room, and run prepare again."
        ) from error

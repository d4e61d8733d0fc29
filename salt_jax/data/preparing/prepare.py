"""From text to fixed-length sequences on disk.

The documents of a split are tokenized, each followed by the end token, shuffled across
all domains, concatenated, and cut every `seq_len` tokens. No token is dropped: the last
sequence is padded.

A corpus may exceed memory, so this is an external sort in two passes. `sorted_runs`
writes sorted runs of each part to disk; `merge` and `cut` merge them into one shard
after another. A split is written to a temporary folder and renamed when it is complete.
A killed process resumes with the parts and shards that are missing. The bytes depend
only on the corpus, the vocabulary, the sequence length, the seed and the shard size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from absl import logging
from etils import epath

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.corpus import Fields, Limits, Part
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.manifest import Settings
from salt_jax.data.preparing.prepare_split import MemoryLimits, SplitWork
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Settings for turning a corpus into prepared sequences."""

    corpus: str  # A folder, or another corpus that `corpus.split_parts` knows.
    vocabulary: str
    output: str  # A folder; each split becomes a folder inside it.
    seq_len: int
    seed: int = 0
    splits: Sequence[str] = ("train", "val", "test")
    domains: Sequence[str] | None = None  # The domains to keep; None: all.
    fields: Fields = Fields()
    limits: Limits = Limits()  # Of the memory that a file may take.
    data_dir: str | None = None  # The folder of TensorFlow Datasets.
    module: str | None = None  # Imported first; registers a SeqIO task.
    max_bad_share: float = 0.001  # The largest allowed share of malformed records.
    sequences_per_shard: int = 16_384
    num_processes: int | None = 1  # None: one per CPU core.
    num_threads: int | None = None  # Per process; None: the CPU cores per process.

    def __post_init__(self):
        for name in ("corpus", "vocabulary", "output"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(
                    f"{name} must be a path or a name, got {getattr(self, name)!r}."
                )
        if not isinstance(self.fields, Fields):
            raise ValueError(
                f"fields must be a Fields, such as @document.Fields() in gin, got "
                f"{self.fields!r}."
            )
        if self.seq_len < 2:
            raise ValueError(f"seq_len must be at least 2, got {self.seq_len}.")
        if not 0.0 <= self.max_bad_share < 1.0:
            raise ValueError(
                f"max_bad_share must be in [0, 1), got {self.max_bad_share}."
            )
        for name in ("sequences_per_shard", "num_processes", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("splits", "domains"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not value):
                raise ValueError(f"{name} must be names in a tuple, got {value!r}.")

    def parts(self, split: str) -> list[Part]:
        """Returns the parts of a split of the corpus.

        Raises:
          FileNotFoundError: there is no such corpus, or it has no such split.
        """
        return corpus.split_parts(
            self.corpus,
            split,
            self.fields,
            limits=self.limits,
            data_dir=self.data_dir,
            module=self.module,
            vocabulary=self.vocabulary,
        )

    def settings(
        self, split: str, vocabulary: Vocabulary, corpus_fingerprint: str
    ) -> Settings:
        """Returns the settings that determine the bytes of a split."""
        domains = None if self.domains is None else tuple(sorted(set(self.domains)))
        return Settings(
            split=split,
            seq_len=self.seq_len,
            seed=self.seed,
            sequences_per_shard=self.sequences_per_shard,
            vocabulary_fingerprint=vocabulary.fingerprint,
            corpus_fingerprint=corpus_fingerprint,
            domains=domains,
            fields=self.fields,
        )


def prepare(
    preparation: Preparation,
    progress: Callable[[str], None] = logging.info,
    *,
    memory: MemoryLimits = MemoryLimits(),
) -> dict[str, PreparedDataset]:
    """Prepares every split that is not prepared yet.

    Args:
      preparation: The corpus, the vocabulary, the output and the settings.
      progress: Called with lines that describe the progress.
      memory: The tokens in memory at a time.

    Returns:
      The splits, by name.

    Raises:
      FileNotFoundError: the corpus, a split of it or the vocabulary is missing.
      ValueError: the corpus is damaged or empty, has too many malformed records or
        lacks a domain; or the output is damaged, or was prepared with other settings.
      OSError: the disk is full, or a process was killed.
    """
    vocabulary = Vocabulary.open(preparation.vocabulary)
    workers = WorkerPool.of(preparation.num_processes, preparation.num_threads)
    # All splits are checked before the first is tokenized: mistakes show at once.
    parts = {split: preparation.parts(split) for split in preparation.splits}
    fingerprints = {split: _fingerprints(parts[split], workers) for split in parts}
    works = [
        SplitWork(
            place=epath.Path(preparation.output) / split,
            settings=preparation.settings(
                split, vocabulary, corpus.fingerprint(fingerprints[split])
            ),
            vocabulary=vocabulary,
            parts=parts[split],
            part_fingerprints=fingerprints[split],
            max_bad_share=preparation.max_bad_share,
            workers=workers,
            progress=progress,
            memory=memory,
        )
        for split in parts
    ]
    is_done = [work.is_done() for work in works]
    for work, done in zip(works, is_done, strict=True):
        if done:
            work.check_shards()
            work.tidy()
            progress(f"{work.place} is complete.")
        else:
            work.run()
    return {work.settings.split: PreparedDataset.open(work.place) for work in works}


def _fingerprints(parts: Sequence[Part], workers: WorkerPool) -> list[str]:
    fingerprints = workers.each(
        lambda index: (index, parts[index].fingerprint()),
        [(index,) for index in range(len(parts))],
        num_processes=1,
    )
    return [found for _, found in sorted(fingerprints)]

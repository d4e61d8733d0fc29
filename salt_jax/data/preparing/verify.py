"""Checks a prepared split against its manifest, down to every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging
from array_record.python import array_record_module
from etils import epath

from salt_jax.data.prepared import sequences
from salt_jax.data.prepared.manifest import NAME, Manifest, Shard
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.data.preparing.prepare_split import other_settings
from salt_jax.data.preparing.workers import Pace, WorkerPool
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files import buckets
from salt_jax.files.reading import sha256_of_file

_READ_RECORDS = 1024


@dataclasses.dataclass(kw_only=True)
class Findings:
    """The failures and counts of one shard, or of all."""

    failures: list[str]  # One line each, with the name of the shard.
    tokens: np.ndarray  # int64, by domain.
    sequences: np.ndarray  # int64, by domain: the sequences with any of its tokens.

    @classmethod
    def none(cls, manifest: Manifest) -> Findings:
        """Returns findings without failures and with counts of 0."""
        zeros = np.zeros(len(manifest.domains), np.int64)
        return cls(failures=[], tokens=zeros, sequences=zeros.copy())


def verify(
    preparation: Preparation, progress: Callable[[str], None] = logging.info
) -> list[str]:
    """Verifies all splits of a preparation; returns one line per failure.

    Raises:
      FileNotFoundError: a split is not prepared.
      ValueError: a manifest is damaged, or lists a shard twice.
    """
    workers = WorkerPool.of(preparation.num_processes, preparation.num_threads)
    failures = []
    vocabulary = Vocabulary.open(preparation.vocabulary)
    for split in preparation.splits:
        place = epath.Path(preparation.output) / split
        settings = Manifest.read(place).settings
        # The corpus may be gone, so its fingerprint is taken from the manifest.
        wanted = preparation.settings(split, vocabulary, settings.corpus_fingerprint)
        found = verify_split(place, workers, progress)
        if other := other_settings(settings, wanted):
            found.append(f"{place} was prepared with {other}.")
        progress(f"{place}: {len(found)} failures." if found else f"{place} is whole.")
        failures += found
    return failures


def verify_split(
    path: epath.PathLike,
    workers: WorkerPool = WorkerPool(1, 1),
    progress: Callable[[str], None] = logging.info,
) -> list[str]:
    """Reads every sequence of a prepared split; returns one line per failure.

    Raises:
      FileNotFoundError: there is no prepared split.
      ValueError: the manifest is damaged, or lists a shard twice.
    """
    path = epath.Path(path)
    manifest = Manifest.read(path)
    shards = manifest.shards
    begins = np.cumsum([0, *(shard.count for shard in shards)]).tolist()
    pace = Pace(f"Verifying {path}", "shards", len(shards), progress)
    found: dict[int, Findings] = {}
    calls = [(index, begins[index]) for index in range(len(shards))]
    for index, findings in workers.each(_VerifyShard(path, manifest), calls):
        found[index] = findings
        pace.add(int(findings.tokens.sum()))
    total = Findings.none(manifest)
    total.failures += _unlisted(path, manifest)
    for _, findings in sorted(found.items()):
        total.failures += findings.failures
        total.tokens += findings.tokens
        total.sequences += findings.sequences
    if not total.failures:  # Otherwise counts differ for the same reasons.
        total.failures += _wrong_counts(path, manifest, total)
    return total.failures


@dataclasses.dataclass(frozen=True)
class _VerifyShard:
    """Verifies one shard, whose first sequence has the id `begin`."""

    path: epath.Path
    manifest: Manifest

    def __call__(self, index: int, begin: int) -> tuple[int, Findings]:
        shard = self.manifest.shards[index]
        path = self.path / shard.name
        findings = Findings.none(self.manifest)
        if not path.exists():
            findings.failures.append(f"{path} is missing.")
            return index, findings
        findings.failures += _wrong_file(path, shard)
        try:
            for offset, record in enumerate(_records(path, shard)):
                if wrong := self._read(begin + offset, record, findings):
                    findings.failures.append(
                        f"{path} is damaged: sequence {begin + offset} {wrong}."
                    )
                    break
        except (OSError, RuntimeError, ValueError) as error:
            findings.failures.append(f"{path} cannot be read: {_one_line(error)}.")
        return index, findings

    def _read(self, sequence: int, record: bytes, findings: Findings) -> str:
        """Adds a sequence to the counts; returns what is wrong with it, or ""."""
        manifest = self.manifest
        dtype = sequences.token_dtype(manifest.vocabulary_size)
        starts, domains, tokens = sequences.from_record(record, dtype)
        left = manifest.num_tokens - sequence * manifest.seq_len
        if len(tokens) != min(left, manifest.seq_len):
            return f"has {len(tokens)} tokens, not {min(left, manifest.seq_len)}"
        ends = np.append(starts[1:], len(tokens))
        if not len(starts) or starts[0] or not (starts < ends).all():
            return "has documents that do not follow one another"
        if tokens.max() >= manifest.vocabulary_size:
            return f"has the token {tokens.max()}, outside the vocabulary"
        if domains.max() >= len(manifest.domains):
            return f"has the domain {domains.max()}, which the manifest lacks"
        np.add.at(findings.tokens, domains, ends.astype(np.int64) - starts)
        findings.sequences[np.unique(domains)] += 1
        return ""


def _wrong_file(path: epath.Path, shard: Shard) -> Iterator[str]:
    num_bytes = path.stat().length
    if num_bytes != shard.num_bytes:
        yield f"{path} has {num_bytes} bytes, and should have {shard.num_bytes}."
    elif (sha256 := sha256_of_file(path)) != shard.sha256:
        yield (
            f"{path} is not the file that was written: its SHA-256 is {sha256[:12]}, "
            f"and should be {shard.sha256[:12]}."
        )


def _records(path: epath.Path, shard: Shard) -> Iterator[bytes]:
    path = buckets.local_copy(path, sha256=shard.sha256)
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        if reader.num_records() != shard.count:
            raise ValueError(
                f"it holds {reader.num_records()} sequences, and should hold "
                f"{shard.count}"
            )
        for begin in range(0, shard.count, _READ_RECORDS):
            end = min(begin + _READ_RECORDS, shard.count)
            yield from reader.read(list(range(begin, end)))
    finally:
        reader.close()


def _unlisted(path: epath.Path, manifest: Manifest) -> list[str]:
    listed = {shard.name for shard in manifest.shards} | {NAME}
    others = sorted(file.name for file in path.iterdir() if file.name not in listed)
    return [f"{path / name} is not in the manifest." for name in others]


def _wrong_counts(
    path: epath.Path, manifest: Manifest, total: Findings
) -> Iterator[str]:
    count = sum(shard.count for shard in manifest.shards)
    if manifest.count != count:
        yield (
            f"The manifest of {path} counts {manifest.count} sequences, and its shards "
            f"{count}."
        )
    if manifest.num_tokens != total.tokens.sum():
        yield (
            f"The manifest of {path} counts {manifest.num_tokens} tokens, and its "
            f"shards hold {total.tokens.sum()}."
        )
    for index, counts in enumerate(manifest.domain_counts):
        for field in ("tokens", "sequences"):
            found, stated = getattr(total, field)[index], getattr(counts, field)
            if found != stated:
                yield (
                    f"The manifest of {path} counts {stated} {field} of "
                    f"{manifest.domains[index]!r}, and its shards hold {found}."
                )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")

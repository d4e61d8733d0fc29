"""The first pass of an external sort: tokenized documents in sorted runs on disk.

A *run* holds documents of one part, sorted by shuffle key, in three files that numpy
can memory-map: `.keys.npy`, `.documents.npy` (of dtype `DOCUMENT`) and `.tokens.npy`.
After all runs of a part, `part-NNNNN.json` is written, with the part's counts and the
SHA-256 of each file. A resumed `prepare` compares them before it uses the runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np
from absl import logging
from etils import epath

from salt_jax.data.corpora.document import Part
from salt_jax.data.preparing.counts import Counts, CountsRecord
from salt_jax.data.preparing.tokenization import TokenizedBlock, Tokenizer
from salt_jax.files.reading import sha256_of_file
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import flush_file

DOCUMENT = np.dtype(
    [
        ("number", "<i8"),  # The number of its record in the part.
        ("begin", "<i8"),  # The index of its first token in the run.
        ("num_tokens", "<i8"),
        ("domain", "<u2"),  # An index into the part's domains.
    ]
)
# The memory overhead of a document, as a number of tokens.
_DOCUMENT_TOKENS = 32
_WRITE_DOCUMENTS = 1 << 12
_FIELDS = ("keys", "documents", "tokens")


@dataclasses.dataclass(frozen=True)
class SortedRun:
    """A sorted run on disk."""

    folder: epath.Path
    name: str

    def open(self, field: str) -> np.ndarray:
        """Memory-maps the "keys", "documents" or "tokens" of the run."""
        return np.load(self.file(field), mmap_mode="r")

    def file(self, field: str) -> epath.Path:
        """Returns the path of the "keys", "documents" or "tokens" of the run."""
        return self.folder / f"{self.name}.{field}.npy"

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 of each file by field; "" for a missing file."""
        files = {field: self.file(field) for field in _FIELDS}
        return {
            field: sha256_of_file(file) if file.exists() else ""
            for field, file in files.items()
        }

    def write(
        self, texts: Sequence[TokenizedBlock], domain_indices: dict[str, int]
    ) -> None:
        """Sorts the documents of `texts` and writes them.

        Raises:
          OSError: the disk is full, or a file cannot be written.
        """
        keys = np.concatenate([text.keys for text in texts])
        numbers = np.concatenate([text.numbers for text in texts])
        lengths = np.concatenate([text.lengths for text in texts])
        order = np.lexsort((numbers, keys))
        documents = np.empty(len(keys), DOCUMENT)
        documents["number"] = numbers[order]
        documents["num_tokens"] = lengths[order]
        documents["begin"] = np.cumsum(lengths[order]) - lengths[order]
        domains = [domain_indices[domain] for text in texts for domain in text.domains]
        documents["domain"] = np.array(domains)[order]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(self.file("keys"), keys[order])
            np.save(self.file("documents"), documents)
            _write_tokens(self.file("tokens"), texts, order)
            for field in _FIELDS:
                flush_file(self.file(field))
        except OSError as error:
            raise OSError(
                f"Cannot write {self.folder / self.name}: {error}. Make room, and run "
                "prepare again."
            ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartRuns:
    """A finished part: its runs and its counts."""

    index: int
    counts: Counts
    runs: Sequence[SortedRun]

    @property
    def domains(self) -> list[str]:
        """The domain names that the documents of its runs index."""
        return list(self.counts.documents)


class _PartFile(TypedDict):
    key: str
    counts: CountsRecord
    runs: dict[str, dict[str, str]]  # The digests of each run, by its name.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spill:
    """Writes the sorted runs of parts, with about `run_tokens` tokens in memory."""

    folder: epath.Path
    tokenizer: Tokenizer
    run_tokens: int
    keys: Mapping[int, str]  # By part index: all that determines the runs of a part.

    def __call__(self, index: int, part: Part) -> PartRuns:
        """Writes the runs of a part, and then marks the part as finished.

        Raises:
          ValueError: the part is damaged or truncated.
          OSError: the disk is full, or a file cannot be written.
        """
        for file in self.folder.glob(f"part-{index:05}[.-]*"):
            file.unlink()
        counts = Counts()
        runs: list[SortedRun] = []
        for number, texts in enumerate(self._gather(index, part, counts)):
            if runs:
                num_tokens = counts.tokens.total()
                logging.info("%s: %s tokens so far.", part.name, f"{num_tokens:,}")
            run = SortedRun(self.folder, f"part-{index:05}-run-{number:05}")
            run.write(texts, {name: i for i, name in enumerate(counts.documents)})
            runs.append(run)
        done = PartRuns(index=index, counts=counts, runs=runs)
        record = _PartFile(
            key=self.keys[index],
            counts=counts.to_record(),
            runs={run.name: run.digests() for run in runs},
        )
        write_record(self.part_file(index), dict(record))
        return done

    def done(self, index: int) -> PartRuns | None:
        """Returns the runs that an earlier process wrote, if they are still valid.

        Reads them, to compare their digests.

        Raises:
          ValueError: the file of the part is damaged.
        """
        file = self.part_file(index)
        if not file.exists():
            return None
        record = read_record(file, _PartFile, remedy="remove it")
        if record["key"] != self.keys[index]:
            return None
        runs = [SortedRun(self.folder, name) for name in record["runs"]]
        for run in runs:
            if run.digests() != record["runs"][run.name]:
                logging.warning("%s is damaged: its part is read again.", run.name)
                return None
        counts = Counts.from_record(record["counts"])
        return PartRuns(index=index, counts=counts, runs=runs)

    def part_file(self, index: int) -> epath.Path:
        """Returns the path of the file that marks a part as finished."""
        return self.folder / f"part-{index:05}.json"

    def _gather(
        self, index: int, part: Part, counts: Counts
    ) -> Iterator[list[TokenizedBlock]]:
        """Yields lists of blocks with about `run_tokens` tokens each."""
        texts: list[TokenizedBlock] = []
        held = 0
        for text in self.tokenizer.read(index, part):
            counts.add_text(text)
            if not len(text.lengths):
                continue
            texts.append(text)
            held += len(text.tokens) + _DOCUMENT_TOKENS * len(text.lengths)
            if held >= self.run_tokens:
                yield texts
                texts, held = [], 0
        if texts:
            yield texts


def _write_tokens(
    path: epath.Path, texts: Sequence[TokenizedBlock], order: np.ndarray
) -> None:
    """Writes the documents' tokens in `order`, without copying all of them at once."""
    documents = [
        tokens
        for text in texts
        for tokens in np.split(text.tokens, np.cumsum(text.lengths)[:-1])
    ]
    num_tokens = sum(len(text.tokens) for text in texts)
    header = {
        "descr": np.lib.format.dtype_to_descr(texts[0].tokens.dtype),
        "fortran_order": False,
        "shape": (num_tokens,),
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, len(order), _WRITE_DOCUMENTS):
            some = order[begin : begin + _WRITE_DOCUMENTS]
            file.write(np.concatenate([documents[i] for i in some]).tobytes())

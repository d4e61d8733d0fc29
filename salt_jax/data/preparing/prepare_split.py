"""Prepares one split of a corpus in two passes, and resumes after a kill.

While the split is being made, the folder `.SPLIT.partial` beside it, or on the local
disk if the split is to be in a bucket, holds

    settings.json   the settings of the split
    .lock           held by the process at work; see `files.lock`
    runs/           the sorted runs of the first pass; see `sorted_runs`
    shards/         shards being written, and a JSON file for each finished one
    split/          finished shards; renamed to SPLIT when it is complete
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from salt_jax.data.corpora.document import Part
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.manifest import NAME, Settings
from salt_jax.data.preparing.assemble import assemble, check, layout_of
from salt_jax.data.preparing.counts import Counts
from salt_jax.data.preparing.merge import MergePlan
from salt_jax.data.preparing.shard_writing import WriteShard
from salt_jax.data.preparing.shards import ShardLayout, WrittenShard, whole_shards
from salt_jax.data.preparing.sorted_runs import PartRuns, Spill
from salt_jax.data.preparing.tokenization import Tokenizer
from salt_jax.data.preparing.workers import Pace, WorkerPool
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files import buckets
from salt_jax.files.lock import alone_in
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import is_local, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryLimits:
    """The tokens in memory at a time. Neither changes the bytes of the split.

    Fewer, larger runs make the second pass faster: it reads every run for every shard.
    """

    run_tokens: int = 1 << 26  # In the first pass.
    bucket_tokens: int = 1 << 23  # In the second pass.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitWork:
    """Settings and paths for preparing one split."""

    place: epath.Path  # The folder that the split becomes.
    settings: Settings
    vocabulary: Vocabulary
    parts: Sequence[Part]
    part_fingerprints: Sequence[str]
    max_bad_share: float
    workers: WorkerPool
    progress: Callable[[str], None]
    memory: MemoryLimits = MemoryLimits()

    @property
    def partial(self) -> epath.Path:
        """The folder that holds the split while it is being made."""
        folder = buckets.local_folder(self.place.parent)
        return folder / f".{self.place.name}.partial"

    def is_done(self) -> bool:
        """Returns whether the split is already prepared.

        Raises:
          FileNotFoundError: something else is in its place.
          ValueError: it was prepared with other settings.
        """
        if not self.place.exists():
            return False
        if not (self.place / NAME).exists():
            if not is_local(self.place):
                return False  # Copying it to the bucket was not completed.
            raise FileNotFoundError(
                f"{self.place} is no prepared split, its {NAME} is missing: delete it, "
                "or choose another output."
            )
        found = PreparedDataset.open(self.place).manifest
        if other := other_settings(found.settings, self.settings):
            raise ValueError(
                f"{self.place} was prepared with {other}. Choose another output, or "
                "delete it first."
            )
        return True

    def check_shards(self) -> None:
        """Compares the shards of the prepared split with their SHA-256; reads them all.

        Raises:
          ValueError: a shard is damaged.
        """
        shards = PreparedDataset.open(self.place).manifest.shards
        whole = whole_shards(self.place, shards, self.workers)
        if damaged := [x.name for x in shards if x.name not in whole]:
            raise ValueError(
                f"{self.place / damaged[0]} is damaged: it is not the file that was "
                f"written; {len(damaged)} of {len(shards)} shards are. Fetch them "
                f"again, or delete {self.place} and prepare it again."
            )

    def tidy(self) -> None:
        """Deletes leftovers of a process that was killed just after it finished."""
        if self.partial.exists():
            self.partial.rmtree()

    def run(self) -> None:
        """Prepares the split; `place` appears when it is complete.

        Raises:
          ValueError: a part is damaged, or too many records are malformed.
          OSError: the disk is full, or a process was killed.
        """
        with alone_in(self.partial):
            self._start_or_resume()
            parts = self._tokenize()
            counts = Counts.of_parts(part.counts for part in parts)
            if report := check(counts, self.parts, self.settings, self.max_bad_share):
                self.progress(report)
            shards = self._write_shards(parts, counts, layout_of(counts, self.settings))
            manifest = assemble(counts, shards, self.settings, self.vocabulary)
            manifest.write(self.partial / "split")
            if is_local(self.place):
                name_folder(self.partial / "split", self.place)
            else:
                self.progress(f"Copying {len(shards)} shards to {self.place}.")
                buckets.copy_folder(self.partial / "split", self.place, last=NAME)
            self.tidy()
        self.progress(
            f"{self.place} holds {manifest.num_tokens:,} tokens in {manifest.count:,} "
            f"sequences of {manifest.seq_len}, {len(manifest.shards)} shards."
        )

    def _start_or_resume(self) -> None:
        """Creates the partial folder, or keeps what is still valid of an old one."""
        file = self.partial / "settings.json"
        wanted = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        if file.exists():
            remedy = f"delete {self.partial} to start over"
            if read_record(file, dict[str, Any], remedy=remedy) == wanted:
                self.progress(f"Resuming {self.place}.")
            else:
                self.progress(
                    f"Resuming {self.place}: the corpus or the settings have changed; "
                    "keeping the parts that have not."
                )
                for name in ("shards", "split"):
                    (self.partial / name).rmtree(missing_ok=True)
        for name in ("runs", "shards", "split"):
            (self.partial / name).mkdir(parents=True, exist_ok=True)
        write_record(file, wanted)

    def _tokenize(self) -> list[PartRuns]:
        """Turns every missing part into sorted runs; returns all parts, in order."""
        domains = self.settings.domains
        spill = Spill(
            folder=self.partial / "runs",
            tokenizer=Tokenizer(
                vocabulary=self.vocabulary,
                seed=self.settings.seed,
                domains=None if domains is None else frozenset(domains),
                num_threads=self.workers.num_threads,
            ),
            run_tokens=self.memory.run_tokens,
            keys=self._keys(),
        )
        begun = [i for i in range(len(self.parts)) if spill.part_file(i).exists()]
        found = self.workers.each(spill.done, [(index,) for index in begun])
        parts = {part.index: part for part in found if part is not None}
        missing = [(i, part) for i, part in enumerate(self.parts) if i not in parts]
        label = f"Tokenizing {self.settings.split!r}"
        self.progress(f"{label}: {len(missing)} of {len(self.parts)} parts to read.")
        pace = Pace(label, "parts", len(missing), self.progress)
        for part in self.workers.each(spill, missing, num_threads=1):
            parts[part.index] = part
            pace.add(part.counts.tokens.total())
        pace.close()
        return [parts[index] for index in range(len(self.parts))]

    def _keys(self) -> dict[int, str]:
        """Returns a key per part: all that determines its tokens and their order."""
        settings = self.settings
        fields = dataclasses.asdict(settings.fields)
        shared = [settings.seed, settings.vocabulary_fingerprint, settings.domains]
        return {
            index: json.dumps([fingerprint, *shared, fields])
            for index, fingerprint in enumerate(self.part_fingerprints)
        }

    def _write_shards(
        self, parts: Sequence[PartRuns], counts: Counts, layout: ShardLayout
    ) -> list[WrittenShard]:
        """Writes every missing shard; returns all shards, in order."""
        domains = sorted(counts.documents)
        write = WriteShard(
            folder=self.partial,
            order=MergePlan.of(parts, domains, bucket_tokens=self.memory.bucket_tokens),
            layout=layout,
            num_domains=len(domains),
        )
        shards = write.done(self.workers)
        missing = [
            (index,) for index in range(layout.num_shards) if index not in shards
        ]
        label = f"Writing {self.settings.split!r}"
        self.progress(
            f"{label}: {len(missing)} of {layout.num_shards} shards to write."
        )
        pace = Pace(label, "shards", len(missing), self.progress)
        for index, shard in self.workers.each(write, missing):
            shards[index] = shard
            pace.add(shard.shard.count * layout.seq_len)
        pace.close()
        return [shards[index] for index in range(layout.num_shards)]


def other_settings(found: Settings, wanted: Settings) -> str:
    """Returns the differences as "NAME=FOUND, not WANTED; ..."; "" if none."""
    asked = dataclasses.asdict(wanted)
    return "; ".join(
        f"{name}={value!r}, not {asked[name]!r}"
        for name, value in dataclasses.asdict(found).items()
        if value != asked[name]
    )

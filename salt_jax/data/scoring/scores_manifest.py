"""The `manifest.json` of scores, which stands beside their shards."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from salt_jax.data.scoring.score_columns import record_dtype
from salt_jax.files.records import read_record, typed, write_record

FORMAT_VERSION = 3
NAME = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoresManifest:
    """The dataset, the scorer and the layout of scores."""

    dataset_fingerprint: str
    split: str
    scorer_fingerprint: str
    count: int  # The sequences to score: ids 0 to count - 1.
    shard_size: int
    ks: tuple[int, ...]
    columns: dict[str, str]  # The definition of each column.
    domains: tuple[str, ...]  # The names that the column `domain` indexes.
    # The share of sequences where a median is 0, by column; None until complete.
    zero_shares: dict[str, float] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        if self.count < 1 or self.shard_size < 1:
            raise ValueError(
                f"count={self.count} and shard_size={self.shard_size} must be positive"
            )
        if not self.ks or min(self.ks) < 1 or len({*self.ks}) < len(self.ks):
            raise ValueError(f"ks={self.ks} must be positive and different")
        if set(self.columns) != set(self.dtype.names or ()):
            raise ValueError(f"columns={sorted(self.columns)} are not those of ks")

    @property
    def num_shards(self) -> int:
        """The number of shard files."""
        return -(-self.count // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a shard's rows."""
        return record_dtype(self.ks)

    @property
    def medians(self) -> list[str]:
        """The names of the median columns."""
        return [name for name in self.columns if name.startswith("median_")]

    def shard_name(self, shard: int) -> str:
        """Returns the file name of a shard."""
        return f"scores-{shard:05}-of-{self.num_shards:05}.npy"

    def shard_ids(self, shard: int) -> np.ndarray:
        """Returns the ids of the sequences in a shard, int64."""
        begin = shard * self.shard_size
        return np.arange(begin, min(begin + self.shard_size, self.count))

    def write(self, path: epath.Path) -> None:
        """Writes the manifest at `path`, replacing an older one."""
        # Other processes may write the same manifest now.
        write_record(path / NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: epath.Path) -> ScoresManifest:
        """Reads the manifest of the scores at `path`.

        Raises:
          FileNotFoundError: there is no manifest.
          ValueError: it is damaged, or of another version.
        """
        file = path / NAME
        if not file.exists():
            raise FileNotFoundError(
                f"No scores at {path}: {NAME} is missing. Run score first."
            )
        remedy = f"delete {path} and score again"
        fields = read_record(file, dict[str, Any], remedy=remedy)
        if (version := fields.get("format_version")) != FORMAT_VERSION:
            raise ValueError(
                f"{file} is of format {str(version)[:40]}, and this version reads "
                f"format {FORMAT_VERSION}: delete {path} and score again."
            )
        return typed(fields, cls, where=str(file), remedy=remedy)

    def check_same(self, path: epath.Path) -> None:
        """Checks that the scores at `path` have this manifest, complete or not.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: they have other settings.
        """
        found = ScoresManifest.read(path)
        other = [
            f"{field.name}={getattr(found, field.name)!r}, not "
            f"{getattr(self, field.name)!r}"
            for field in dataclasses.fields(found)
            if field.name != "zero_shares"
            and getattr(found, field.name) != getattr(self, field.name)
        ]
        if other:
            raise ValueError(
                f"{path} has scores with {'; '.join(other)}. Give another path, or "
                "delete them first."
            )

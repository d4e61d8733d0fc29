"""What some scores are: the `manifest.json` beside their shards."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from salt_jax.data.json_files import write_json
from salt_jax.data.scoring.score_columns import record_dtype

FORMAT_VERSION = 2
NAME = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoresManifest:
    """Of what the scores are, by whom, and how many."""

    dataset_fingerprint: str
    split: str
    scorer_fingerprint: str
    count: int  # Sequences scored, or to be scored: ids 0 to count - 1.
    shard_size: int
    ks: tuple[int, ...]
    columns: dict[str, str]  # What each means.
    domains: tuple[str, ...]  # That the column `domain` counts, from 0.
    # By median, the share of sequences of which it is 0; None until all are scored.
    zero_shares: dict[str, float] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def num_shards(self) -> int:
        """How many files the scores are in."""
        return -(-self.count // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """The type of a shard's rows."""
        return record_dtype(self.ks)

    @property
    def medians(self) -> list[str]:
        """The columns that are medians."""
        return [name for name in self.columns if name.startswith("median_")]

    def shard_name(self, shard: int) -> str:
        """Returns the file name of a shard."""
        return f"scores-{shard:05}-of-{self.num_shards:05}.npy"

    def shard_ids(self, shard: int) -> np.ndarray:
        """Returns the ids of the sequences scored in a shard, int64."""
        begin = shard * self.shard_size
        return np.arange(begin, min(begin + self.shard_size, self.count))

    def write(self, path: epath.Path) -> None:
        """Writes the manifest at `path`, over the one that may be there."""
        # Other processes may write the same manifest now.
        write_json(path / NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: epath.Path) -> ScoresManifest:
        """Reads the manifest of the scores at `path`.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is damaged, or of another version.
        """
        file = path / NAME
        if not file.exists():
            raise FileNotFoundError(
                f"No scores at {path}: {NAME} is missing. Run score first."
            )
        try:
            record = json.loads(file.read_text())
            version = record["format_version"]
            manifest = cls._from_record(record) if version == FORMAT_VERSION else None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged: delete {path}, score again."
            ) from error
        if manifest is None:
            raise ValueError(
                f"The scores {path} are in format {version}, and this version reads "
                f"format {FORMAT_VERSION}: delete them and score again."
            )
        return manifest

    def check_same(self, path: epath.Path) -> None:
        """Checks that the scores at `path` are these, complete or not.

        Raises:
          FileNotFoundError: there are none.
          ValueError: they are others.
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

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> ScoresManifest:
        lists = {name: tuple(record[name]) for name in ("ks", "domains")}
        return cls(**(record | lists))

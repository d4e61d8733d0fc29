"""What the scorer says of each sequence, on disk.

The first `count` sequences of a split are scored; their ids are 0 to count - 1. Since
documents were shuffled when they were prepared, they are a random sample of the split.
A folder holds `manifest.json` and shards `scores-IIIII-of-NNNNN.npy`, structured arrays
with one float32 field for each column of `score_columns`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.score_columns import column_definitions

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoresManifest:
    """Of what the scores are, by whom, and how many."""

    dataset_fingerprint: str
    split: str
    scorer_fingerprint: str
    count: int  # Sequences scored, or to be scored: ids 0 to count - 1.
    shard_size: int
    columns: dict[str, str]  # What each means.
    # By column, the share of sequences whose score is 0; None until all are scored.
    zero_shares: dict[str, float] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def num_shards(self) -> int:
        """How many files the scores are in."""
        return -(-self.count // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """The type of a shard's rows."""
        return np.dtype([(name, "<f4") for name in self.columns])

    def shard_name(self, shard: int) -> str:
        """Returns the file name of a shard."""
        return f"scores-{shard:05}-of-{self.num_shards:05}.npy"

    def shard_ids(self, shard: int) -> np.ndarray:
        """Returns the ids of the sequences scored in a shard, int64."""
        begin = shard * self.shard_size
        return np.arange(begin, min(begin + self.shard_size, self.count))


class ScoresWriter:
    """Scores in the making; what a killed run wrote is kept."""

    def __init__(self, path: epath.Path, manifest: ScoresManifest):
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        path: epath.PathLike,
        dataset: PreparedDataset,
        *,
        scorer_fingerprint: str,
        count: int | None = None,
        ks: Sequence[int],
        shard_size: int = 4096,
    ) -> ScoresWriter:
        """Begins the scores of `dataset` at `path`, or goes on with them.

        Args:
          path: The folder of the scores.
          dataset: The sequences to be scored.
          scorer_fingerprint: Of the export that scores them.
          count: How many are to be scored, from id 0; by default all.
          ks: The k of `salt_scores`.
          shard_size: How many scores are written at a time.

        Raises:
          ValueError: there are other scores at `path`, or fewer sequences than `count`.
        """
        path = epath.Path(path)
        count = len(dataset) if count is None else count
        if not 1 <= count <= len(dataset) or shard_size < 1 or not ks or min(ks) < 1:
            raise ValueError(
                f"Scores of count={count} sequences of {len(dataset)} in shards of "
                f"{shard_size} at ks={tuple(ks)}: give a count from 1 to "
                f"{len(dataset)}, and a shard size and ks from 1."
            )
        manifest = ScoresManifest(
            dataset_fingerprint=dataset.fingerprint,
            split=dataset.manifest.split,
            scorer_fingerprint=scorer_fingerprint,
            count=count,
            shard_size=shard_size,
            columns=column_definitions(ks),
        )
        if (path / _MANIFEST).exists():
            manifest = _same_scores(path, manifest)
        else:
            path.mkdir(parents=True, exist_ok=True)
            _write_manifest(path, manifest)
        return cls(path, manifest)

    def missing_shards(self) -> list[int]:
        """Returns the shards that are still to be written."""
        present = {file.name for file in self.path.iterdir()}
        shards = range(self.manifest.num_shards)
        return [i for i in shards if self.manifest.shard_name(i) not in present]

    def write_shard(self, shard: int, columns: Mapping[str, np.ndarray]) -> None:
        """Writes the scores of the sequences `manifest.shard_ids(shard)`.

        Raises:
          ValueError: these are not the manifest's columns, or a number is not finite.
        """
        rows = np.empty(len(self.manifest.shard_ids(shard)), self.manifest.dtype)
        if set(columns) != set(self.manifest.columns):
            raise ValueError(
                f"Scores of columns {sorted(columns)}; {self.path} has "
                f"{sorted(self.manifest.columns)}."
            )
        for name, values in columns.items():
            if np.shape(values) != rows.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"Shard {shard} of {name!r} needs {len(rows)} finite numbers, got "
                    f"{np.isfinite(values).sum()} in shape {np.shape(values)}."
                )
            rows[name] = values
        path = self.path / self.manifest.shard_name(shard)
        partial = self.path / f"{path.name}.partial"
        with partial.open("wb") as file:
            np.save(file, rows)
        partial.replace(path)

    def finish(self) -> Scores:
        """Returns the scores, now that every shard is written.

        Raises:
          ValueError: some are missing.
        """
        missing = self.missing_shards()
        if missing:
            raise ValueError(
                f"{len(missing)} of {self.manifest.num_shards} shards of {self.path} "
                f"are not written, the first is {missing[0]}."
            )
        scores = Scores(self.path, self.manifest)
        shares = {
            name: float(np.mean(scores.column(name) == 0))
            for name in self.manifest.columns
        }
        self.manifest = dataclasses.replace(self.manifest, zero_shares=shares)
        _write_manifest(self.path, self.manifest)
        return Scores(self.path, self.manifest)


class Scores:
    """Scores on disk, complete."""

    def __init__(self, path: epath.Path, manifest: ScoresManifest):
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: epath.PathLike, dataset: PreparedDataset) -> Scores:
        """Opens the scores of `dataset`.

        Raises:
          FileNotFoundError: there are none.
          ValueError: they are of another dataset, or not complete.
        """
        path = epath.Path(path)
        manifest = _read_manifest(path)
        if manifest.dataset_fingerprint != dataset.fingerprint:
            raise ValueError(
                f"The scores {path} are of the dataset "
                f"{manifest.dataset_fingerprint[:12]}, and {dataset.path} is "
                f"{dataset.fingerprint[:12]}: score it, or give its own scores."
            )
        if manifest.zero_shares is None:
            raise ValueError(
                f"The scores {path} are not complete: run score again to go on."
            )
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.count

    def column(self, name: str) -> np.ndarray:
        """Returns the scores of a column by sequence id, float32 [len(self)].

        Raises:
          ValueError: there is no such column, or a shard is damaged or missing.
        """
        manifest = self.manifest
        if name not in manifest.columns:
            raise ValueError(
                f"The scores {self.path} have no column {name!r}; there are "
                f"{sorted(manifest.columns)}."
            )
        shards = [self._read_shard(shard) for shard in range(manifest.num_shards)]
        return np.concatenate([rows[name] for rows in shards])

    def _read_shard(self, shard: int) -> np.ndarray:
        path = self.path / self.manifest.shard_name(shard)
        try:
            with path.open("rb") as file:
                rows = np.load(file)
        except (OSError, ValueError, EOFError):
            rows = None
        expected = (self.manifest.shard_ids(shard).shape, self.manifest.dtype)
        if rows is None or (rows.shape, rows.dtype) != expected:
            raise ValueError(
                f"{path} is missing or damaged: delete it and run score again."
            )
        return rows


def _same_scores(path: epath.Path, wanted: ScoresManifest) -> ScoresManifest:
    """Returns the manifest at `path`, having refused other scores than `wanted`."""
    found = _read_manifest(path)
    other = [
        f"{field.name}={getattr(found, field.name)!r}, not "
        f"{getattr(wanted, field.name)!r}"
        for field in dataclasses.fields(found)
        if field.name != "zero_shares"
        and getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if other:
        raise ValueError(
            f"{path} has scores with {'; '.join(other)}. Give another path, or delete "
            "them first."
        )
    return found


def _read_manifest(path: epath.Path) -> ScoresManifest:
    file = path / _MANIFEST
    if not file.exists():
        raise FileNotFoundError(
            f"No scores at {path}: {_MANIFEST} is missing. Run score first."
        )
    try:
        record = json.loads(file.read_text())
        version = record["format_version"]
        manifest = ScoresManifest(**record) if version == FORMAT_VERSION else None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged: delete {path}, score again.") from error
    if manifest is None:
        raise ValueError(
            f"The scores {path} are in format {version}, and this version reads format "
            f"{FORMAT_VERSION}: delete them and score again."
        )
    return manifest


def _write_manifest(path: epath.Path, manifest: ScoresManifest) -> None:
    text = json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
    partial = path / f"{_MANIFEST}.partial"
    partial.write_text(text)
    partial.replace(path / _MANIFEST)

"""Scores of the sequences of a split, on disk.

The first `count` sequences are scored, with ids 0 to count - 1. Documents were shuffled
when they were prepared, so these are a random sample of the split. The folder holds
`manifest.json` and shards `scores-IIIII-of-NNNNN.npy`, which are structured arrays with
the `record_dtype` of `score_columns`, and end with a digest: see `score_shards`.

Any number of processes may write to one folder; see `shared_shards`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring import score_shards
from salt_jax.data.scoring.score_columns import column_definitions
from salt_jax.data.scoring.scores_manifest import NAME, ScoresManifest
from salt_jax.data.scoring.shared_shards import SharedShards


class ScoresWriter:
    """Writes scores, and keeps the shards that a killed process wrote."""

    def __init__(self, path: epath.Path, manifest: ScoresManifest):
        self.path = path
        self.manifest = manifest
        names = [manifest.shard_name(shard) for shard in range(manifest.num_shards)]
        self.shards = SharedShards(path, names)

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
        """Starts or resumes the scores of `dataset` at `path`.

        Args:
          path: The folder of the scores.
          dataset: The sequences to score.
          scorer_fingerprint: The fingerprint of the scorer's export.
          count: The number of sequences to score, from id 0; by default all.
          ks: The ks of `score_columns`.
          shard_size: The number of sequences per shard.

        Raises:
          ValueError: `path` has other scores, or `dataset` has fewer sequences.
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
            ks=tuple(ks),
            columns=column_definitions(ks),
            domains=dataset.manifest.domains,
        )
        if not (path / NAME).exists():
            path.mkdir(parents=True, exist_ok=True)
            manifest.write(path)
        manifest.check_same(path)
        return cls(path, manifest)

    def missing_shards(self) -> list[int]:
        """Returns the numbers of the shards that are not written yet."""
        return self.shards.missing()

    def write_shard(self, shard: int, columns: Mapping[str, np.ndarray]) -> None:
        """Writes the scores of the sequences `manifest.shard_ids(shard)`.

        If another process has already written the shard, its file stays.

        Raises:
          ValueError: the columns are not the manifest's, or a number is not finite.
        """
        rows = np.empty(len(self.manifest.shard_ids(shard)), self.manifest.dtype)
        if set(columns) != set(self.manifest.columns):
            raise ValueError(
                f"Scores of columns {sorted(columns)}; {self.path} has "
                f"{sorted(self.manifest.columns)}."
            )
        for name, values in columns.items():
            num_finite = np.isfinite(values).sum()
            if np.shape(values) != rows[name].shape or num_finite < rows[name].size:
                raise ValueError(
                    f"Shard {shard} of {name!r} needs {rows[name].size} finite numbers "
                    f"in shape {rows[name].shape}, got {num_finite} in shape "
                    f"{np.shape(values)}."
                )
            rows[name] = values
        self.shards.write(shard, score_shards.to_bytes(rows, self.manifest, shard))

    def finish(self) -> Scores:
        """Completes the manifest and returns the scores. Any process may call it.

        Raises:
          ValueError: a shard is missing or damaged.
        """
        missing = self.missing_shards()
        if missing:
            raise ValueError(
                f"{len(missing)} of {self.manifest.num_shards} shards of {self.path} "
                f"are not written, the first is {missing[0]}."
            )
        self.manifest.check_same(self.path)
        scores = Scores(self.path, self.manifest)
        shares = scores.zero_shares()
        self.manifest = dataclasses.replace(self.manifest, zero_shares=shares)
        self.manifest.write(self.path)
        self.shards.clean()
        return Scores(self.path, self.manifest)


class Scores:
    """Complete scores on disk."""

    def __init__(self, path: epath.Path, manifest: ScoresManifest):
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: epath.PathLike, dataset: PreparedDataset) -> Scores:
        """Opens the scores of `dataset`, or of its first sequences.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: they belong to another dataset, or are not complete.
        """
        path = epath.Path(path)
        manifest = ScoresManifest.read(path)
        if manifest.dataset_fingerprint != dataset.fingerprint:
            raise ValueError(
                f"The scores {path} are of the dataset "
                f"{manifest.dataset_fingerprint[:12]}, and {dataset.path} is "
                f"{dataset.fingerprint[:12]}: score it, or give its own scores."
            )
        if manifest.count > len(dataset):
            raise ValueError(
                f"The scores {path} are of {manifest.count} sequences, and "
                f"{dataset.path} has {len(dataset)}: delete them and score again."
            )
        if manifest.zero_shares is None:
            raise ValueError(
                f"The scores {path} are not complete: run score again to resume."
            )
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.count

    def column(self, name: str) -> np.ndarray:
        """Returns a column by sequence id, [len(self)], in the dtype of the record.

        `loss_quantiles` is [len(self), Q]. Reads one shard at a time.

        Raises:
          ValueError: there is no such column; a shard is damaged, missing, or has a
            number that is not finite.
        """
        if name not in self.manifest.columns:
            raise ValueError(
                f"The scores {self.path} have no column {name!r}; there are "
                f"{sorted(self.manifest.columns)}."
            )
        base, shape = self.manifest.dtype[name].base, self.manifest.dtype[name].shape
        values = np.empty((len(self), *shape), base)
        for ids, rows in self._shards():
            values[ids[0] : ids[-1] + 1] = rows[name]
        return values

    def zero_shares(self) -> dict[str, float]:
        """Returns the share of zeros in each median column; reads all shards once.

        Raises:
          ValueError: a shard is damaged, missing, or has a number that is not finite.
        """
        zeros = dict.fromkeys(self.manifest.medians, 0)
        for _, rows in self._shards():
            for name in zeros:
                zeros[name] += int(np.count_nonzero(rows[name] == 0))
        return {name: count / len(self) for name, count in zeros.items()}

    def _shards(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the ids and the rows of each shard, after checking its numbers."""
        for shard in range(self.manifest.num_shards):
            ids = self.manifest.shard_ids(shard)
            rows = score_shards.read(self.path, self.manifest, shard)
            for name in self.manifest.columns:
                is_bad = ~np.isfinite(rows[name]).reshape(len(ids), -1).all(axis=1)
                if is_bad.any():
                    path = self.path / self.manifest.shard_name(shard)
                    raise ValueError(
                        f"{path} holds {rows[name][is_bad][0]} as {name!r} of sequence "
                        f"{ids[is_bad][0]}: delete it and run score again."
                    )
            yield ids, rows

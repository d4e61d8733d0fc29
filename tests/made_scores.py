"""Scores that no model made, for tests of what reads them."""

import numpy as np

from salt_jax.data.scoring.scores import ScoresWriter


def rows_of(manifest, ids, columns):
    """The columns of some ids; those that are not given are zeros."""
    dtype = manifest.dtype
    zeros = np.zeros(len(ids), dtype)
    return {
        name: np.asarray(columns[name])[ids].astype(dtype[name].base)
        if name in columns
        else zeros[name]
        for name in dtype.names
    }


def write_scores(path, dataset, columns, *, ks=(10,), shard_size=4096):
    """Writes `columns`, by id of the first sequences of `dataset`, as its scores."""
    (count,) = {len(values) for values in columns.values()}
    writer = ScoresWriter.open(
        path,
        dataset,
        scorer_fingerprint="abc",
        count=count,
        ks=ks,
        shard_size=shard_size,
    )
    for shard in writer.missing_shards():
        ids = writer.manifest.shard_ids(shard)
        writer.write_shard(shard, rows_of(writer.manifest, ids, columns))
    return writer.finish()

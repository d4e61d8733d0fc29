"""Small models and batches that several tests use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.reading.rows import causal_batch
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.parameters import STACK, layer_name
from salt_jax.model.transformer import Transformer, init_params

SMALL = TransformerConfig(
    vocab_size=64,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    dtype="float32",
    remat="none",
)


def partitioning(devices=1, *, model=1, replica=1):
    """A mesh of the first `devices` devices."""
    shape = MeshShape(replica=replica, model=model)
    return Partitioning(mesh=shape.build(jax.devices()[:devices]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPlatform(Partitioning):
    """A mesh whose devices count as those of another platform."""

    counts_as: str

    @property
    def platform(self):
        return self.counts_as

    @property
    def compute_capability(self):
        return "9.0" if self.counts_as == "gpu" else ""


def on_platform(platform, mesh):
    """The mesh, as one of devices of `platform`."""
    return OnPlatform(mesh=mesh.mesh, rules=mesh.rules, counts_as=platform)


def small_model(mesh=None, **changes):
    """A model of two layers and its parameters, the same ones on every mesh."""
    mesh = mesh or partitioning()
    model = Transformer(dataclasses.replace(SMALL, **changes), mesh)
    params = mesh.materialize(lambda key: init_params(model, key), jax.random.key(0))
    return model, params


def stack_layers(params, num_layers):
    """Returns the parameters of an unrolled model as those of a scanned one."""
    inner = dict(params["params"])
    layers = [inner.pop(layer_name(i)) for i in range(num_layers)]
    return {"params": inner | {STACK: jax.tree.map(lambda *x: jnp.stack(x), *layers)}}


def packed_batch(rows=8, length=16, *, vocab_size=64, seed=0):
    """Rows of two documents and a little padding, cut at random places."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, vocab_size, (rows, length + 1)).astype(np.int32)
    cut = rng.integers(2, length - 3, (rows, 1))
    end = rng.integers(length - 2, length + 1, (rows, 1))
    columns = np.arange(length)
    segments = np.where(columns < cut, 1, 2) * (columns < end)
    positions = np.where(columns < cut, columns, columns - cut)
    return Batch(
        tokens_BL=jnp.asarray(tokens[:, :-1]),
        targets_BL=jnp.asarray(tokens[:, 1:]),
        weights_BL=jnp.asarray(segments > 0, jnp.float32),
        segments_BL=jnp.asarray(segments, jnp.int32),
        positions_BL=jnp.asarray(positions, jnp.int32),
    )


def on_mesh(batch, mesh):
    """The batch, split over `mesh` as the loader splits it."""
    return jax.device_put(batch, mesh.sharding("batch", "length"))


def saying(params, tokens):
    """Untied parameters of which `tokens` follow one another, whatever was before.

    After the last of them, and after any token that is not among them, the first.
    """
    E_VD = np.zeros(params["params"]["embedding_VD"].shape, np.float32)
    U_VD = np.zeros_like(E_VD)
    E_VD[:, 0] = 1.0
    for place, token in enumerate(tokens[:-1], start=1):
        E_VD[token] = np.eye(E_VD.shape[1])[place]
    for place, token in enumerate(tokens):
        U_VD[token] = 100.0 * np.eye(E_VD.shape[1])[place]

    def change(path, x):
        name = path[-1].key
        value = {"embedding_VD": E_VD, "unembedding_VD": U_VD}.get(name)
        if name in ("out", "down"):  # What blocks add to their inputs.
            value = np.zeros(x.shape, np.float32)
        return x if value is None else jax.device_put(value, x.sharding)

    return jax.tree_util.tree_map_with_path(change, params)


def dense_reading(model, params, sequences):
    """The cross-entropy and the rank of each target, from all logits on one device."""
    alone = Transformer(model, partitioning())
    params = jax.device_put(jax.device_get(params), jax.devices()[0])
    batch = causal_batch(sequences)
    logits_BLV = np.asarray(alone.apply(params, batch).logits(), np.float64)
    target_BL1 = np.take_along_axis(logits_BLV, batch.targets_BL[..., None], axis=-1)
    log_sum_BL = np.log(np.exp(logits_BLV).sum(axis=-1))
    rank_BL = (logits_BLV > target_BL1).sum(axis=-1)
    return log_sum_BL - target_BL1[..., 0], rank_BL


def batch_ids(loader, index):
    """Returns the ids of the sequences of batch `index`."""
    return loader.rows.ids(loader.row_numbers(index))

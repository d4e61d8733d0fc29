"""Prints what a teacher's soft labels lose where its parameters are held in fewer bits.

Run from the root of the repository, after launch/demo.sh or on an export of your own:
python tests/benchmarks/teacher_dtype.py [--export=runs/demo/exports/slm]

Each row is compared with the first, on the same held-out tokens: the divergence
KL(float32 || row) in nats and the total variation of the two distributions, at the
temperature that the labels are made with; how often both have one argmax; and how much
the cross-entropy of the teacher itself changes. Means are over tokens.

Dimensions: B batch, L length, V vocabulary.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.mesh.memory import bytes_per_device
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.quantized import abstract_held
from salt_jax.model.transformer import Transformer
from salt_jax.storage.export import Export

# How parameters are held, and in what they are computed with. Int8 computed in float32
# tells the error of the parameters from that of the arithmetic.
ROWS = (
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("int8", "bfloat16"),
    ("bfloat16", "float32"),
    ("int8", "float32"),
)


Read = Callable[[Batch], jax.Array]


def reader(export: Export, held: str, computed: str) -> tuple[Read, int]:
    """Returns a function from a batch to its logits, and the bytes of a device."""
    partitioning = Partitioning(mesh=MeshShape().build())
    shape = dataclasses.replace(export.model, dtype=computed, remat="none")
    model = Transformer(shape, partitioning)
    like = abstract_held(model, held)
    params = export.load(like)

    @jax.jit
    def read(params: Any, batch: Batch) -> jax.Array:
        unembedding: Any = model.apply(params, batch)
        return unembedding.logits()

    return lambda batch: read(params, batch), bytes_per_device(like)


@jax.jit
def compare(
    exact_BLV: jax.Array, logits_BLV: jax.Array, batch: Batch, temperature: float
) -> dict[str, jax.Array]:
    """Returns sums over the targets of `batch`."""
    exact_log_BLV = jax.nn.log_softmax(exact_BLV / temperature)
    log_BLV = jax.nn.log_softmax(logits_BLV / temperature)
    exact_soft_BLV = jnp.exp(exact_log_BLV)
    agrees_BL = jnp.argmax(exact_BLV, axis=-1) == jnp.argmax(logits_BLV, axis=-1)
    values_BL = {
        "kl": jnp.sum(exact_soft_BLV * (exact_log_BLV - log_BLV), axis=-1),
        "variation": 0.5 * jnp.sum(jnp.abs(exact_soft_BLV - jnp.exp(log_BLV)), axis=-1),
        "agreement": agrees_BL.astype(jnp.float32),
        "ce": cross_entropy(logits_BLV, batch.targets_BL),
        "tokens": jnp.ones(agrees_BL.shape),
    }
    return {name: jnp.sum(x_BL * batch.weights_BL) for name, x_BL in values_BL.items()}


def cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    """Returns the cross-entropy of each target, in nats."""
    log_BLV = jax.nn.log_softmax(logits_BLV)
    return -jnp.take_along_axis(log_BLV, targets_BL[..., None], axis=-1)[..., 0]


def main(options: argparse.Namespace) -> None:
    """Prints the table."""
    export = Export.open(options.export)
    data = PreparedText(
        path=options.data, vocabulary=str(export.vocabulary_path), split=options.split
    )
    dataset = data.open(seq_len=options.seq_len)
    ids = np.arange(min(options.sequences, len(dataset)))
    readers = [reader(export, *row) for row in ROWS]
    sums: list[dict[str, float]] = [{} for _ in ROWS]
    for some in np.array_split(ids, -(-len(ids) // options.batch_size)):
        batch = causal_batch(dataset.read(some))
        exact_BLV = readers[0][0](batch)
        for total, (read, _) in zip(sums, readers, strict=True):
            part = compare(exact_BLV, read(batch), batch, options.temperature)
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + float(value)
    print_table(sums, [size for _, size in readers])


def print_table(sums: list[dict[str, float]], sizes: list[int]) -> None:
    """Prints a row for each of `ROWS`."""
    tokens = sums[0]["tokens"]
    print(f"{tokens:,.0f} tokens; teacher cross-entropy {sums[0]['ce'] / tokens:.4f}")
    print("held      computed        KL  variation  agreement  CE change  bytes/device")
    for (held, computed), row, size in zip(ROWS, sums, sizes, strict=True):
        change = (row["ce"] - sums[0]["ce"]) / tokens
        print(
            f"{held:9} {computed:9} {row['kl'] / tokens:8.2e}   "
            f"{row['variation'] / tokens:8.2e}   {row['agreement'] / tokens:8.2%}  "
            f"{change:+9.5f}  {size:12,}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", default="runs/demo/exports/slm")
    parser.add_argument("--data", default="runs/demo/data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seq_len", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    main(parser.parse_args())

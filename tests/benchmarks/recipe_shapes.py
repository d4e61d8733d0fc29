"""Prints how the best learning rate moves with depth and width, on a tiny language.

Run from the root of the repository: python tests/benchmarks/recipe_shapes.py

The language is a Markov chain of 32 tokens in which one of two, equally likely, follows
a token: no model does better than log 2 nats. Each cell is the mean loss of the last
five of 60 steps of 256 tokens, less log 2, over a column's peak learning rate; "max
rise" is the most that a step's loss was above the mean of the four before it, at the
rate with the least loss.

Dimensions: B batch, L length.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.transformer import Transformer, init_params, parameter_facts
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.optim.schedules import WarmupCosine
from salt_jax.training.train_step import TrainState, Update

NUM_STEPS, WARMUP = 60, 12
ROWS, LENGTH, VOCAB = 8, 32, 32
SHAPES = [(6, 32), (23, 32), (92, 32), (6, 128)]
FORMS = {  # The optimizer, whether outputs are drawn by depth, and peak rates.
    "AdamW": (AdamW, False, (1.3e-3, 4e-3, 1.2e-2)),
    "Adafactor": (Adafactor, False, (1e-2, 3e-2, 9e-2)),
    "Adafactor by depth": (Adafactor, True, (1e-2, 3e-2, 9e-2, 2.7e-1)),
}


def batches() -> Batch:
    """Returns a batch for each step, stacked."""
    after = np.random.default_rng(0).integers(VOCAB, size=(VOCAB, 2))
    rng = np.random.default_rng(1)
    shape = (NUM_STEPS, ROWS)
    tokens = [rng.integers(VOCAB, size=shape)]
    for _ in range(LENGTH):
        tokens.append(after[tokens[-1], rng.integers(2, size=shape)])
    tokens_BL = np.stack(tokens, axis=-1).astype(np.int32)
    ones_BL = np.ones((*shape, LENGTH), np.int32)
    return Batch(
        tokens_BL=tokens_BL[..., :-1],
        targets_BL=tokens_BL[..., 1:],
        weights_BL=ones_BL.astype(np.float32),
        segments_BL=ones_BL,
        positions_BL=np.cumsum(ones_BL, axis=-1, dtype=np.int32) - 1,
    )


def training(layers: int, width: int, kind: type, by_depth: bool):
    """Returns a compiled function of a peak learning rate to the loss of each step."""
    config = TransformerConfig(
        vocab_size=VOCAB,
        num_layers=layers,
        embed_dim=width,
        num_heads=2,
        num_kv_heads=1,
        head_dim=width // 2,
        mlp_dim=2 * width,
        dtype="float32",
        remat="none",
        init_outputs_by_depth=by_depth,
    )
    mesh = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    model = Transformer(config, mesh)
    shape = WarmupCosine(peak=1.0, end=0.1, warmup_steps=WARMUP, total_steps=NUM_STEPS)
    decay = {"weight_decay": 0.1} if kind is AdamW else {}

    @jax.jit
    def train(peak):
        optimizer = kind(learning_rate=lambda step: peak * shape(step), **decay)
        optimizer = optimizer.build(parameter_facts(model))
        update = Update(student=model, optimizer=optimizer, chunk_tokens=ROWS * LENGTH)

        def init(key):
            params = init_params(model, key)
            return TrainState(jnp.int32(0), params, optimizer.init(params))

        def step(state, batch):
            state, metrics = update(state, None, batch)
            return state, metrics["loss"].mean()

        state = mesh.materialize(init, jax.random.key(0))
        return jax.lax.scan(step, state, batches())[1]

    return train


def max_rise(losses: np.ndarray) -> float:
    """Returns the most that a loss is above the mean of the four before it."""
    return max(losses[i] - losses[i - 4 : i].mean() for i in range(4, NUM_STEPS))


def main() -> None:
    rates = [f"{name} {rate:g}" for name, (*_, all_) in FORMS.items() for rate in all_]
    print("| layers x width | " + " | ".join(rates) + " | max rise |")
    print("|---" + "|--:" * (len(rates) + 1) + "|")
    for layers, width in SHAPES:
        cells, least = [], (math.inf, 0.0)
        for kind, by_depth, peaks in FORMS.values():
            train = training(layers, width, kind, by_depth)
            for peak in peaks:
                losses = np.asarray(train(peak), np.float64)
                final = losses[-5:].mean() - math.log(2.0)
                cells.append(f"{final:.3f}")
                least = min(least, (final, max_rise(losses)))
        row = " | ".join([f"{layers}x{width}", *cells, f"{least[1]:.2f}"])
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()

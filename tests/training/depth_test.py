"""The recipe of the paper-scale files on the paper's depth, in seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax import gin_config
from salt_jax.batch import Batch
from salt_jax.model.transformer import Transformer, init_params, parameter_facts
from salt_jax.optim.schedules import WarmupCosine
from salt_jax.training.train_step import TrainState, Update
from tests.examples import partitioning

NUM_STEPS, WARMUP = 40, 8
ROWS, LENGTH, VOCAB = 8, 32, 32


def batch_of_a_chain(seed):
    """Rows of a Markov chain: one of two tokens, equally likely, follows a token."""
    rng = np.random.default_rng(seed)
    after = np.random.default_rng(0).integers(VOCAB, size=(VOCAB, 2))
    tokens = [rng.integers(VOCAB, size=ROWS)]
    for _ in range(LENGTH):
        tokens.append(after[tokens[-1], rng.integers(2, size=ROWS)])
    tokens_BL = np.stack(tokens, axis=1).astype(np.int32)
    ones_BL = np.ones((ROWS, LENGTH), np.int32)
    return Batch(
        tokens_BL=tokens_BL[:, :-1],
        targets_BL=tokens_BL[:, 1:],
        weights_BL=ones_BL.astype(np.float32),
        segments_BL=ones_BL,
        positions_BL=np.cumsum(ones_BL, axis=1, dtype=np.int32) - 1,
    )


@pytest.mark.slow
def test_ninety_two_layers_train_without_a_spike_by_the_paper_scale_recipe():
    experiment = gin_config.load(["gin/baseline_2p8b.gin"])
    assert experiment.model.num_layers == 92
    config = dataclasses.replace(
        experiment.model,
        **{"vocab_size": VOCAB, "embed_dim": 32, "mlp_dim": 64, "num_heads": 2},
        **{"head_dim": 16, "dtype": "float32", "remat": "none"},
    )
    peak = float(experiment.optimizer.learning_rate.peak)
    rate = WarmupCosine(
        peak=peak, end=peak / 10, warmup_steps=WARMUP, total_steps=NUM_STEPS
    )
    mesh = partitioning()
    model = Transformer(config, mesh)
    recipe = dataclasses.replace(experiment.optimizer, learning_rate=rate)
    optimizer = recipe.build(parameter_facts(model))
    update = Update(
        student=model,
        optimizer=optimizer,
        chunk_tokens=ROWS * LENGTH,
        z_loss=experiment.z_loss,
    )

    def init(key):
        params = init_params(model, key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = mesh.materialize(init, jax.random.key(0))
    step = jax.jit(update, donate_argnums=0)
    losses = []
    for number in range(NUM_STEPS):
        state, metrics = step(state, None, batch_of_a_chain(number + 1))
        losses.append(float(metrics["loss"].mean()))
    assert losses[-1] < losses[0] - 0.5
    # No loss is above its running past, the mean of the four before.
    for at in range(4, NUM_STEPS):
        assert losses[at] < np.mean(losses[at - 4 : at]) + 0.2, losses

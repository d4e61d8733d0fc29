"""Facts about an embedding that is stored, gathered and split over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.mesh.vocab_shards import VocabShards, look_up

B, L, D, V = 8, 4, 8, 16
MESH = MeshShape(replica=2, data=2, model=2).build()
BY_ALL = ("replica", "data", "model")
RULES = {
    "default": {},
    "shared": dict(batch=BY_ALL),
    "shared_by_all": dict(batch=BY_ALL, vocab=BY_ALL, act_vocab=BY_ALL),
    "shared_by_two_of_them": dict(
        batch=BY_ALL, vocab=("model", "data", "replica"), act_vocab=("model", "data")
    ),
    "shared_over_one_of_two": dict(
        batch=("model", "replica"), vocab=("data", "model"), act_vocab=("data", "model")
    ),
    "length_split": dict(length="model"),
    "length_shared_by_two": dict(
        batch="data", length=("replica", "model"), act_vocab="model"
    ),
    "width_stored": dict(vocab="model", vocab_embed=("replica", "data")),
    "only_stored_split": dict(
        batch=BY_ALL, vocab=("data", "model"), vocab_embed="replica", act_vocab=None
    ),
    "whole": dict(vocab=None, act_vocab=None),
}


def on(**rules):
    return Partitioning(mesh=MESH, rules=AxisRules(**rules))


def example():
    """An embedding, tokens of which every third is the same, and a gradient."""
    keys = jax.random.split(jax.random.key(0), 3)
    embedding_VD = jax.random.normal(keys[0], (V, D))
    tokens_BL = jax.random.randint(keys[1], (B, L), 0, V)
    tokens_BL = jnp.where(jnp.arange(B * L).reshape(B, L) % 3 == 0, 5, tokens_BL)
    gradient_BLD = jax.random.normal(keys[2], (B, L, D), jnp.bfloat16)
    return embedding_VD, tokens_BL, gradient_BLD


def looked_up(partitioning, dtype="bfloat16"):
    """Returns what `look_up` makes of the example, and the embedding's gradient."""
    embedding_VD, tokens_BL, gradient_BLD = example()
    stored = partitioning.sharding("vocab", "vocab_embed")
    embedding_VD = jax.device_put(embedding_VD, stored)

    @jax.jit
    def run(embedding_VD, tokens_BL, gradient_BLD):
        read = lambda embedding_VD: look_up(
            partitioning, embedding_VD, tokens_BL, dtype
        )
        x_BLD, pull = jax.vjp(read, embedding_VD)
        return x_BLD, pull(gradient_BLD.astype(dtype))[0]

    return run(embedding_VD, tokens_BL, gradient_BLD)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_looking_up_is_taking_rows_and_its_gradient_is_summed_in_float32(rules):
    embedding_VD, tokens_BL, gradient_BLD = map(np.asarray, example())
    x_BLD, gradient_VD = looked_up(on(**rules))
    assert x_BLD.dtype == jnp.bfloat16 and gradient_VD.dtype == jnp.float32
    np.testing.assert_array_equal(x_BLD, embedding_VD.astype(jnp.bfloat16)[tokens_BL])
    expected_VD = np.zeros((V, D))
    np.add.at(expected_VD, tokens_BL, gradient_BLD.astype(np.float64))
    # In bfloat16, the sum over token 5 alone would be off by 1e-2.
    np.testing.assert_allclose(gradient_VD, expected_VD, rtol=1e-6, atol=1e-6)


def test_an_embedding_stays_in_the_pieces_that_are_stored():
    partitioning = on(batch=BY_ALL)
    x_BLD, gradient_VD = looked_up(partitioning)
    stored = partitioning.sharding("vocab", "vocab_embed")
    assert gradient_VD.sharding.is_equivalent_to(stored, 2)
    assert x_BLD.sharding.shard_shape(x_BLD.shape) == (B // 8, L, D)


def test_a_token_outside_the_vocabulary_is_not_a_number():
    embedding_VD, tokens_BL, _ = example()
    tokens_BL = tokens_BL.at[3, 1].set(V).at[4, 2].set(-1)
    for rules in ({}, RULES["shared"]):
        x_BLD = look_up(on(**rules), embedding_VD, tokens_BL, "float32")
        is_nan_BL = np.isnan(x_BLD).all(-1)
        assert is_nan_BL[3, 1] and is_nan_BL[4, 2]
        assert is_nan_BL.sum() == 2 == np.isnan(x_BLD).any(-1).sum()


def on_each_device(shards, body, *arrays_in_order):
    """`body` of each device's part of arrays that are split by tokens."""
    tokens = shards.partitioning.spec("batch")
    return jax.shard_map(
        body, mesh=MESH, in_specs=tokens, out_specs=tokens, check_vma=False
    )(*arrays_in_order)


@pytest.mark.parametrize("name", [n for n in RULES if "length" not in n])
def test_a_device_owns_of_what_is_shared_what_it_gave(name):
    shards = VocabShards(on(**RULES[name]))
    ids_C = jnp.arange(16.0)
    owned = on_each_device(shards, lambda x: shards.own(shards.share(x)), ids_C)
    np.testing.assert_array_equal(owned, ids_C)


@pytest.mark.parametrize("name", [n for n in RULES if "length" not in n])
def test_the_sum_over_parts_of_the_vocabulary_is_of_a_devices_own_tokens(name):
    shards = VocabShards(on(**RULES[name]))
    ids_C1 = jnp.arange(16.0)[:, None]
    summed = on_each_device(
        shards, lambda x: shards.sum_to_own(shards.share(x)), ids_C1
    )
    np.testing.assert_array_equal(summed, shards.num_shards * ids_C1)


@pytest.mark.parametrize(
    "rules",
    [
        dict(vocab=("data", "model")),
        dict(vocab="data"),
        dict(vocab=None),
        dict(act_vocab=("data", "model")),
    ],
    ids=str,
)
def test_pieces_that_would_not_be_gathered_whole_are_refused(rules):
    with pytest.raises(ValueError, match="'vocab' is .*'act_vocab'"):
        VocabShards(on(**rules))


@pytest.mark.parametrize(
    ("shape", "rules", "message"),
    [
        ((14, 8), {}, r"'vocab' of size 14 .* {'model': 2, 'data': 2}"),
        (
            (16, 7),
            dict(vocab="model", vocab_embed="data"),
            r"'vocab_embed' of size 7 .* {'data': 2}",
        ),
    ],
)
def test_an_embedding_that_does_not_divide_is_refused_by_name(shape, rules, message):
    tokens_BL = jnp.zeros((B, L), jnp.int32)
    with pytest.raises(ValueError, match=message):
        look_up(on(**rules), jnp.zeros(shape), tokens_BL, "float32")


def test_one_device_gathers_and_scatters_nothing():
    # XLA for CPUs copies what it gathers, or scatters, within a group of one.
    one = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    embedding_VD, tokens_BL, _ = example()

    def total(embedding_VD):
        return jnp.sum(look_up(one, embedding_VD, tokens_BL, "float32"))

    program = jax.jit(jax.grad(total)).lower(embedding_VD).as_text()
    assert "all_gather" not in program
    assert "reduce_scatter" not in program

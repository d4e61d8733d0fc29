import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.optim.adafactor import FactoredMoment
from salt_jax.optim.optimizer import Adafactor
from salt_jax.optim.schedules import Constant, LinearDecay
from tests.optim.facts import facts_of

NUM_LAYERS = 3
SHAPES = {  # Of one layer. With min_dim_size_to_factor=8 the first three are factored.
    "query_DHK": (16, 2, 8),
    "out_HKD": (2, 8, 16),
    "gate_DF": (16, 24),
    "narrow_DG": (16, 4),
    "scale_D": (16,),
}
CHOICES = [
    {},
    {"scale_by_parameter": False},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"min_dim_size_to_factor": 128},
    {"decay_exponent": 0.5, "clip_threshold": 0.7, "epsilon_1": 1e-2},
    {"clip_threshold": None},
]


def adafactor(params, rate=0.1, **options):
    """Returns the optimizer of `params`."""
    options = {"min_dim_size_to_factor": 8} | options
    schedule = Constant(value=rate) if isinstance(rate, float) else rate
    return Adafactor(learning_rate=schedule, **options).build(facts_of(params))


def noise(seed, shape):
    # Of numpy: eager JAX would compile a program for each shape.
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def normal(seed, scale=1.0):
    """Returns one layer's arrays of noise."""
    return {name: scale * noise(seed, shape) for name, shape in SHAPES.items()}


def run(optimizer, params, grads_of_step, num_steps=4):
    """Returns params and state after some updates with `grads_of_step(step)`."""

    @jax.jit
    def step_once(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for step in range(num_steps):
        params, state = step_once(params, state, grads_of_step(step))
    return params, state


def one_update(optimizer, params, grads):
    update = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    return update(grads, params)


def assert_trees_close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
        found,
        expected,
    )


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_without_a_stack_it_is_the_adafactor_of_optax(options):
    theirs = {"min_dim_size_to_factor": 8} | options
    # Optax does not multiply the decay by the learning rate, and we spare vectors.
    theirs["weight_decay_rate"] = 0.1 * theirs.pop("weight_decay", 0.0)
    names = {
        "scale_by_parameter": "multiply_by_parameter_scale",
        "decay_exponent": "decay_rate",
        "clip_threshold": "clipping_threshold",
        "epsilon_1": "eps",
    }
    theirs = {names.get(name, name): value for name, value in theirs.items()}
    oracle = optax.adafactor(
        0.1, weight_decay_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p), **theirs
    )
    # Of unequal size, so that updates are clipped at some steps and not at others.
    grads = lambda step: normal(step, scale=2.0**step)
    found, _ = run(adafactor(normal(99), **options), normal(99), grads)
    expected, _ = run(oracle, normal(99), grads)
    assert_trees_close(found, expected)


@pytest.mark.parametrize("options", [*CHOICES, {"clip_norm": 0.1}], ids=str)
def test_a_stack_is_trained_as_its_layers_are_one_by_one(options):
    rate = LinearDecay(start=0.2, end=0.1, begin_step=0, end_step=4)

    def layers(seed, scale):
        # Of unequal size, so that what looks across layers shows.
        return [normal(seed + 100 * i, scale * 4.0**i) for i in range(NUM_LAYERS)]

    def stacked(layers):
        return {"params": {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}}

    def unrolled(layers):
        return {"params": {f"layer_{i}": layer for i, layer in enumerate(layers)}}

    params = stacked(layers(9, 0.1))
    scanned, scanned_state = run(
        adafactor(params, rate, **options),
        params,
        lambda step: stacked(layers(step, 2.0**step)),
    )
    params = unrolled(layers(9, 0.1))
    alone, _ = run(
        adafactor(params, rate, **options),
        params,
        lambda step: unrolled(layers(step, 2.0**step)),
    )
    assert_trees_close(scanned, stacked([*alone["params"].values()]), rtol=1e-5)
    moments = jax.tree.leaves(scanned_state[1].moments)
    assert {moment.shape[0] for moment in moments} == {NUM_LAYERS}


def test_the_two_largest_dimensions_of_a_layer_are_factored_head_by_head():
    params = {"layers": jax.tree.map(lambda x: np.stack([x] * 40), normal(0))}
    moments = adafactor(params).init(params)[1].moments["layers"]
    shapes = {
        name: (m.row.shape, m.column.shape)
        if isinstance(m, FactoredMoment)
        else m.shape
        for name, m in moments.items()
    }
    assert shapes == {
        "query_DHK": ((40, 2, 8), (40, 16, 2)),
        "out_HKD": ((40, 2, 8), (40, 2, 16)),
        "gate_DF": ((40, 16), (40, 24)),
        "narrow_DG": (40, 16, 4),
        "scale_D": (40, 16),
    }


def test_factored_moments_are_boxed_with_the_axes_that_remain():
    partitioning = Partitioning(mesh=MeshShape(data=2, model=4).build())

    def init():
        def box(axes, *shape):
            return nn.Partitioned(jnp.ones(shape), axes)

        params = {
            "embedding_VD": box(("vocab", "vocab_embed"), 32, 8),
            "layers": {
                "query": box(("layers", "embed", "heads", "head_dim"), 3, 16, 4, 8),
                "gate": box(("layers", "embed", "mlp"), 3, 8, 16),
                "scale": box(("layers", "embed"), 3, 8),
            },
        }
        return adafactor(params).init(params)[1].moments

    moments = partitioning.materialize(init)
    found = jax.tree.map(lambda x: x.sharding, moments)
    axes = partitioning.sharding
    assert found == {
        "embedding_VD": FactoredMoment(row=axes("vocab_embed"), column=axes("vocab")),
        "layers": {
            "query": FactoredMoment(
                row=axes("layers", "heads", "head_dim"),
                column=axes("layers", "embed", "heads"),
            ),
            "gate": FactoredMoment(
                row=axes("layers", "embed"), column=axes("layers", "mlp")
            ),
            "scale": axes("layers", "embed"),
        },
    }


def test_factoring_is_exact_where_squared_gradients_have_rank_one():
    row = np.exp(noise(0, (16, 1)))
    column = np.exp(noise(1, (1, 24)))
    grads = lambda step: {"w": (-1.0) ** step * (1.0 + step) * row * column}
    params = {"w": jnp.ones((16, 24))}
    factored, _ = run(adafactor(params), params, grads)
    whole, _ = run(adafactor(params, min_dim_size_to_factor=128), params, grads)
    assert_trees_close(factored, whole)


def test_the_first_update_is_the_sign_of_the_gradient_where_nothing_is_factored():
    params, grads = normal(0), normal(1)
    options = {"min_dim_size_to_factor": 128, "scale_by_parameter": False}
    updates = one_update(adafactor(params, **options), params, grads)
    assert_trees_close(updates, jax.tree.map(lambda g: -0.1 * jnp.sign(g), grads))


@pytest.mark.parametrize("min_size", [8, 128])
def test_no_layers_update_has_an_rms_above_the_learning_rate(min_size):
    params = {"layers": {"gate_DF": jnp.ones((2, 16, 24))}}
    optimizer = adafactor(
        params, scale_by_parameter=False, min_dim_size_to_factor=min_size
    )
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    # Layer 1 alone has a gradient that grows a thousandfold.
    for size in (1.0, 1.0, 1000.0):
        grads = noise(int(size), (2, 16, 24)) * np.array([1.0, size])[:, None, None]
        grads = {"layers": {"gate_DF": jnp.asarray(grads, jnp.float32)}}
        updates, state = update(grads, state, params)
    calm, burst = updates["layers"]["gate_DF"]
    np.testing.assert_allclose(rms(burst), 0.1, rtol=1e-5)
    assert 0.05 < rms(calm) <= 0.1 * (1 + 1e-6)


def test_an_update_is_as_large_as_its_layer_of_parameters_but_never_nothing():
    scales = jnp.array([0.0, 1.0, 20.0])
    params = {"layers": {"gate_DF": scales[:, None, None] * jnp.ones((3, 16, 24))}}
    grads = {"layers": {"gate_DF": jnp.ones((3, 16, 24))}}
    updates = one_update(adafactor(params), params, grads)["layers"]["gate_DF"]
    sizes = [rms(layer) for layer in updates]
    np.testing.assert_allclose(sizes, [0.1 * 1e-3, 0.1, 2.0], rtol=1e-5)
    updates = one_update(adafactor(params, epsilon_2=5.0), params, grads)["layers"]
    sizes = [rms(layer) for layer in updates["gate_DF"]]
    np.testing.assert_allclose(sizes, [0.5, 0.5, 2.0], rtol=1e-5)


@pytest.mark.parametrize("options", CHOICES[:3], ids=str)
def test_a_gradient_of_zero_changes_nothing(options):
    params = normal(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    found, _ = run(adafactor(params, **options), params, lambda step: zeros)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_tiny_gradients_are_not_lost_in_the_product_of_their_moments():
    # Squared they are 1e-24; a product of two such is below float32's least.
    params = {"w": jnp.ones((16, 24))}
    grads = {"w": 1e-12 * noise(0, (16, 24))}
    large = {"w": 1e12 * grads["w"]}
    found = one_update(adafactor(params), params, grads)
    assert_trees_close(found, one_update(adafactor(params), params, large), rtol=1e-4)

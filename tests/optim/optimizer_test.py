import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.optim.schedules import Constant, LinearDecay
from tests.optim.facts import facts_of

RATE = Constant(value=0.01)


def noise(seed, shape, dtype=jnp.float32):
    # Of numpy: eager JAX would compile a program for each shape.
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def jitted(optimizer):
    return optax.GradientTransformation(*map(jax.jit, optimizer))


def boxed_params(dtype=jnp.float32):
    """Returns the params of a stack of three layers, as a model declares them."""

    def box(axes, *shape):
        return nn.Partitioned(noise(len(axes) * shape[-1], shape, dtype), axes)

    return {
        "params": {
            "embedding_VD": box(("vocab", "vocab_embed"), 32, 16),
            "layers": {
                "attention_norm": {"scale": box(("layers", "embed"), 3, 8)},
                "attention": {
                    "query": box(("layers", "embed", "heads", "head_dim"), 3, 8, 4, 16),
                    "out": box(("layers", "heads", "head_dim", "embed"), 3, 4, 16, 8),
                },
                "mlp": {"gate": box(("layers", "embed", "mlp"), 3, 8, 16)},
            },
            "final_norm": {"scale": box(("embed",), 8)},
        }
    }


def plain_params(dtype=jnp.float32):
    return nn.unbox(boxed_params(dtype=dtype))


def gradients(params, step):
    """Returns normal noise in the shapes of `params`, other at each step."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten(
        [noise((step, i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    )


def run(optimizer, params, num_steps=3):
    """Returns params and optimizer state after a few updates."""

    @jax.jit
    def step_once(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for step in range(num_steps):
        params, state = step_once(params, state, gradients(params, step))
    return params, state


def assert_trees_close(found, expected, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, expected
    )


def is_matrix(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: "scale" not in jax.tree_util.keystr(path), params
    )


def test_adamw_is_the_adamw_of_optax_that_spares_the_norms():
    schedule = LinearDecay(start=0.1, end=0.01, begin_step=0, end_step=3)
    ours = AdamW(learning_rate=schedule, b1=0.8, b2=0.95, weight_decay=0.1)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.8, b2=0.95, weight_decay=0.1, mask=is_matrix),
    )
    found, _ = run(ours.build(facts_of(plain_params())), plain_params())
    expected, _ = run(theirs, plain_params())
    assert_trees_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_weight_decay_is_multiplied_by_the_learning_rate_and_spares_vectors(kind):
    params = plain_params()
    half = Constant(value=0.5)
    optimizer = jitted(
        kind(learning_rate=half, weight_decay=0.1).build(facts_of(params))
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    expected = jax.tree.map(
        lambda p, decays: -0.5 * 0.1 * p if decays else 0.0 * p,
        params,
        is_matrix(params),
    )
    assert_trees_close(updates, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_weight_decay_spares_biases_stacked_or_not(kind):
    layer = {"query": jnp.ones((3, 4)), "query_bias": jnp.ones((3, 4))}
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), layer)
    params = {"layers": {"attention": stack}, "layer_0": {"attention": layer}}
    rate = Constant(value=0.5)
    optimizer = kind(learning_rate=rate, weight_decay=0.1).build(facts_of(params))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for layer in updates.values():
        assert not layer["attention"]["query_bias"].any()
        np.testing.assert_allclose(layer["attention"]["query"], -0.05, rtol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_the_schedule_is_read_at_the_number_of_updates_made(kind):
    class Recorded:
        def __call__(self, step):
            jax.debug.callback(lambda step: seen.append(int(step)), step)
            return jnp.float32(0.1)

    seen = []
    params = plain_params()
    run(kind(learning_rate=Recorded()).build(facts_of(params)), params, num_steps=4)
    jax.effects_barrier()
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_a_gradient_above_the_clip_norm_counts_as_one_of_that_norm(kind):
    def first_update(optimizer, scale):
        params = plain_params()
        grads = jax.tree.map(lambda g: g * scale, gradients(params, 0))
        state = optimizer.init(params)
        # A second update tells a clipped gradient from a rescaled first one.
        _, state = optimizer.update(gradients(params, 1), state, params)
        return optimizer.update(grads, state, params)[0]

    norm = float(optax.tree.norm(gradients(plain_params(), 0)))
    facts = facts_of(plain_params())
    clipped = jitted(kind(learning_rate=RATE, clip_norm=norm).build(facts))
    assert_trees_close(
        first_update(clipped, 50.0), first_update(clipped, 1.0), rtol=1e-4, atol=1e-7
    )
    free = jitted(kind(learning_rate=RATE, clip_norm=None).build(facts))
    gap = jax.tree.map(
        lambda x, y: jnp.max(jnp.abs(x - y)),
        first_update(free, 50.0),
        first_update(clipped, 1.0),
    )
    assert min(jax.tree.leaves(gap)) > 1e-3


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_moments_of_bfloat16_params_are_float32_and_as_good(kind):
    params = plain_params(jnp.bfloat16)
    optimizer = jitted(kind(learning_rate=RATE).build(facts_of(params)))
    state = optimizer.init(params)
    grads = gradients(params, 0)
    updates, state = optimizer.update(grads, state, params)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), (grads, params))
    expected, _ = optimizer.update(exact[0], optimizer.init(exact[1]), exact[1])
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32", "int32"}
    # Two programs may round the last bit otherwise; bfloat16 would round the eighth.
    assert_trees_close(updates, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_on_a_mesh_every_moment_lies_where_its_parameter_does(kind, momentum):
    options = {"momentum": momentum, "min_dim_size_to_factor": 8}
    options = options if kind is Adafactor else {}
    optimizer = kind(learning_rate=RATE, **options).build(facts_of(plain_params()))
    partitioning = Partitioning(mesh=MeshShape(data=2, model=4).build())

    def init():
        params = boxed_params()
        return params, optimizer.init(params)

    params, state = partitioning.abstract(init)
    made_params, made_state = partitioning.materialize(init)
    for abstract, made in zip(
        jax.tree.leaves((params, state)),
        jax.tree.leaves((made_params, made_state)),
        strict=True,
    ):
        assert (abstract.shape, abstract.dtype) == (made.shape, made.dtype)
        assert abstract.sharding.is_equivalent_to(made.sharding, made.ndim)
    of_shape = {p.shape: p.sharding.spec for p in jax.tree.leaves(params)}
    for moment in jax.tree.leaves(state):
        if moment.ndim == 0:
            assert moment.sharding.is_fully_replicated
        elif moment.shape in of_shape:
            assert moment.sharding.spec == of_shape[moment.shape]
    assert kind is Adafactor or len(jax.tree.leaves(state)) == 2 + 2 * len(of_shape)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_a_mesh_of_eight_gives_the_numbers_of_one_device(kind):
    options = {"min_dim_size_to_factor": 8} if kind is Adafactor else {}
    options |= {"weight_decay": 0.1, "clip_norm": 0.5}
    optimizer = kind(learning_rate=RATE, **options).build(facts_of(plain_params()))

    def run_on(mesh):
        partitioning = Partitioning(mesh=mesh)
        params = partitioning.materialize(boxed_params)
        state = partitioning.materialize(lambda: optimizer.init(boxed_params()))
        update = jax.jit(optimizer.update)
        for step in range(2):
            grads = jax.tree.map(
                lambda g, p: jax.device_put(g, p.sharding),
                gradients(plain_params(), step),
                params,
            )
            updates, state = update(grads, state, params)
            params = jax.jit(optax.apply_updates)(params, updates)
        return jax.device_get((params, state))

    found = run_on(MeshShape(data=2, model=4).build())
    expected = run_on(MeshShape().build(jax.devices()[:1]))
    # Sums over shards add in another order.
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)


def test_switching_clipping_or_momentum_off_is_a_choice_by_name():
    params = plain_params()
    facts = facts_of(params)
    with_clip = AdamW(learning_rate=RATE, clip_norm=1.0).build(facts).init(params)
    without = AdamW(learning_rate=RATE, clip_norm=None).build(facts).init(params)
    assert jax.tree.structure(with_clip) == jax.tree.structure(without)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(learning_rate=RATE, b1=1.0), r"AdamW\.b1 .* below 1, got 1\.0"),
        (lambda: AdamW(learning_rate=RATE, b2=-0.1), r"AdamW\.b2 .* at least 0"),
        (lambda: AdamW(learning_rate=RATE, eps=0.0), r"eps must be positive"),
        (lambda: AdamW(learning_rate=RATE, weight_decay=-1.0), "must not be negative"),
        (lambda: AdamW(learning_rate=RATE, clip_norm=0.0), r"clip_norm .* got 0\.0"),
        (lambda: Adafactor(learning_rate=RATE, clip_norm=-1.0), r"Adafactor\.clip"),
        (lambda: Adafactor(learning_rate=RATE, momentum=1.0), r"Adafactor\.momentum"),
        (lambda: Adafactor(learning_rate=RATE, weight_decay=-0.1), "weight_decay"),
        (
            lambda: Adafactor(learning_rate=RATE, min_dim_size_to_factor=1),
            "at least 2, got 1",
        ),
        (lambda: Adafactor(learning_rate=RATE, decay_exponent=0.0), "exponent .* 0.0"),
        (lambda: Adafactor(learning_rate=RATE, decay_exponent=1.5), "exponent .* 1.5"),
        (lambda: Adafactor(learning_rate=RATE, clip_threshold=0.0), "threshold .* 0.0"),
        (lambda: Adafactor(learning_rate=RATE, epsilon_1=0.0), "epsilon_1 .* 0.0"),
        (lambda: Adafactor(learning_rate=RATE, epsilon_2=-1.0), r"epsilon_2 .* -1.0"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

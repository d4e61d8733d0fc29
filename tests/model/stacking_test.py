import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.model.parameters import STACK
from salt_jax.model.stacking import check_depths, small_like, sources, stacked
from salt_jax.model.transformer import Transformer, abstract_params, unstack_layers
from tests.examples import SMALL, packed_batch, partitioning
from tests.model.all_parts import ALL_PARTS, lively_model

PLAIN = {"tied_embedding": False}


def logits(model, params):
    return model.apply(params, packed_batch(rows=2)).logits()


def grown(
    small, params, order="whole", outputs="zero", *, num_layers=4, scan_layers=True
):
    """A deeper model, and its parameters made of a copy of `params`."""
    config = dataclasses.replace(
        small.config, num_layers=num_layers, scan_layers=scan_layers
    )
    model = Transformer(config, small.partitioning)
    like = abstract_params(model)
    layers = sources(order, small.config.num_layers, num_layers)
    shapes = small_like(like, small.config, config)
    copy = jax.tree.map(lambda x, y: jax.device_put(np.asarray(x), y.sharding),
                        params, shapes)  # fmt: skip
    made = stacked(copy, like, small.config, config, layers, outputs)
    # Never both models at once in memory.
    leaves = jax.tree_util.tree_leaves_with_path(copy)
    of_blocks = [x for path, x in leaves if path[1].key.startswith("layer")]
    assert of_blocks and all(x.is_deleted() for x in of_blocks)
    places = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)
    assert places(made) == places(like)
    return model, made


def blocks(model, params):
    """The parameters of each block of a model, by its number."""
    if model.config.scan_layers:
        params = unstack_layers(params, model.config.num_layers)
    return [params["params"][f"layer_{i}"] for i in range(model.config.num_layers)]


def test_the_stack_is_repeated_whole_or_block_by_block():
    assert sources("whole", 3, 6) == [0, 1, 2, 0, 1, 2]
    assert sources("each", 3, 6) == [0, 0, 1, 1, 2, 2]
    assert sources("whole", 2, 5) == [0, 1, 0, 1, 0]
    assert sources("each", 2, 5) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("order, scan_layers", [("whole", True), ("each", False)])
def test_with_zero_outputs_the_deeper_model_is_the_smaller_one(order, scan_layers):
    small, params = lively_model(**PLAIN, scan_layers=scan_layers)
    expected = logits(small, params)
    model, made = grown(small, params, order, scan_layers=scan_layers)
    np.testing.assert_allclose(logits(model, made), expected, rtol=1e-6, atol=1e-6)
    _, copied = grown(small, params, order, "copied", scan_layers=scan_layers)
    assert np.abs(logits(model, copied) - expected).max() > 0.1


@pytest.mark.slow
def test_so_it_is_with_every_part_that_a_family_has():
    small, params = lively_model(**ALL_PARTS)
    model, made = grown(small, params)
    expected = logits(small, params)
    np.testing.assert_allclose(logits(model, made), expected, rtol=1e-5, atol=1e-6)
    _, copied = grown(small, params, outputs="copied")
    assert np.abs(logits(model, copied) - expected).max() > 0.1


@pytest.mark.parametrize("of_small", [True, False])
@pytest.mark.parametrize("of_large", [True, False])
def test_blocks_are_copied_whether_stacked_or_not(of_small, of_large):
    small, params = lively_model(scan_layers=of_small)
    model, made = grown(small, params, "each", "copied", num_layers=5,
                        scan_layers=of_large)  # fmt: skip
    found, before = blocks(model, made), blocks(small, params)
    expected = [before[i] for i in (0, 0, 0, 1, 1)]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("embedding_VD", "final_norm"):
        actual, wanted = made["params"][name], params["params"][name]
        jax.tree.map(np.testing.assert_array_equal, actual, wanted)


def test_what_a_block_adds_is_divided_among_its_copies():
    small, params = lively_model()
    model, made = grown(small, params, "each", "divided", num_layers=5)
    before = blocks(small, params)
    for block, source, copies in zip(
        blocks(model, made), (0, 0, 0, 1, 1), (3, 3, 3, 2, 2), strict=True
    ):
        of = before[source]
        np.testing.assert_allclose(block["attention"]["out"] * copies,
                                   of["attention"]["out"], rtol=1e-6)  # fmt: skip
        np.testing.assert_allclose(block["mlp"]["down"] * copies, of["mlp"]["down"],
                                   rtol=1e-6)  # fmt: skip
        np.testing.assert_array_equal(block["mlp"]["gate"], of["mlp"]["gate"])


@pytest.mark.parametrize("is_zero_centered", [True, False])
def test_with_post_norms_it_is_their_scales_that_are_divided(is_zero_centered):
    small, params = lively_model(post_norms=True, zero_centered_norm=is_zero_centered)
    model, made = grown(small, params, "each", "divided")
    first, before = blocks(model, made)[0], blocks(small, params)[0]
    offset = 1.0 if is_zero_centered else 0.0
    for name in ("attention_post_norm", "mlp_post_norm"):
        found = (first[name]["scale"] + offset) * 2
        np.testing.assert_allclose(found, before[name]["scale"] + offset, rtol=1e-5)
    np.testing.assert_array_equal(first["mlp"]["down"], before["mlp"]["down"])


@pytest.mark.slow
def test_a_block_that_adds_nothing_learns_to():
    model, made = grown(*lively_model(post_norms=True))
    gradient = jax.grad(lambda params: logits(model, params).sum())(made)
    scales = gradient["params"][STACK]["mlp_post_norm"]["scale"]
    assert float(jnp.abs(scales[3]).max()) > 1.0
    # Zero projections before a post-norm would have gradients of 1 / sqrt(norm_eps).
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e3


def test_on_a_mesh_the_deeper_model_is_sharded_as_its_own():
    mesh = partitioning(8, model=2)
    small, params = lively_model()
    on_mesh = Transformer(small.config, mesh)
    _, made = grown(on_mesh, params)
    expected = grown(small, params)[1]
    jax.tree.map(np.testing.assert_array_equal, made, expected)
    gate = made["params"][STACK]["mlp"]["gate"]
    assert gate.sharding.shard_shape(gate.shape) == (4, 8, 32)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"embed_dim": 16}, "embed_dim=32, and the student 16"),
        ({"vocab_size": 128}, "vocab_size=64, and the student 128"),
        ({"activation": "silu"}, "activation='gelu', and the student 'silu'"),
        ({"norm_eps": 1e-5}, "norm_eps=1e-06"),
        ({"num_layers": 2}, "2 layers, and the student 2: .* its path alone"),
        ({"num_layers": 1}, "2 layers, and the student 1"),
    ],
)
def test_a_model_that_is_not_just_smaller_in_depth_is_refused(changes, said):
    model = dataclasses.replace(SMALL, **{"num_layers": 4} | changes)
    with pytest.raises(ValueError, match=said):
        check_depths(SMALL, model, sources("whole", 2, model.num_layers))


def test_a_local_block_does_not_become_a_global_one():
    small = dataclasses.replace(SMALL, sliding_window=4, global_every=2)
    model = dataclasses.replace(small, num_layers=4, dtype="bfloat16", remat="full")
    check_depths(small, model, sources("whole", 2, 4))
    with pytest.raises(ValueError, match="layer 0 would become layer 1, which is glob"):
        check_depths(small, model, sources("each", 2, 4))

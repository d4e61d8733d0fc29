"""The facts of every parameter, as the modules declare them."""

import dataclasses
import math

import pytest
from flax import traverse_util

from salt_jax.model.transformer import Transformer, abstract_params, parameter_facts
from tests.examples import SMALL, partitioning, small_model
from tests.model.all_parts import ALL_PARTS

# Of each parameter: its axes, and those that its product sums over.
EXPECTED = {
    "embedding_VD": (("vocab", "vocab_embed"), ("vocab_embed",)),
    "unembedding_VD": (("vocab", "vocab_embed"), ("vocab_embed",)),
    "query": (("embed", "heads", "head_dim"), ("embed",)),
    "key": (("embed", "kv_heads", "head_dim"), ("embed",)),
    "value": (("embed", "kv_heads", "head_dim"), ("embed",)),
    "out": (("heads", "head_dim", "embed"), ("heads", "head_dim")),
    "gate": (("embed", "mlp"), ("embed",)),
    "up": (("embed", "mlp"), ("embed",)),
    "down": (("mlp", "embed"), ("mlp",)),
    "query_bias": (("heads", "head_dim"), ()),
    "key_bias": (("kv_heads", "head_dim"), ()),
    "value_bias": (("kv_heads", "head_dim"), ()),
    "query_norm": (("head_dim",), ()),
    "key_norm": (("head_dim",), ()),
    "attention_norm": (("act_embed",), ()),
    "attention_post_norm": (("act_embed",), ()),
    "mlp_norm": (("act_embed",), ()),
    "mlp_post_norm": (("act_embed",), ()),
    "final_norm": (("act_embed",), ()),
}


def facts_and_shapes(scan_layers):
    parts = ALL_PARTS | {"tied_embedding": False, "scan_layers": scan_layers}
    config = dataclasses.replace(SMALL, **parts)
    model = Transformer(config, partitioning())
    flat = [
        traverse_util.flatten_dict(f(model)) for f in (parameter_facts, abstract_params)
    ]
    assert flat[0].keys() == flat[1].keys()
    return [(path, flat[0][path], flat[1][path].shape) for path in flat[0]]


@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_parameter_says_what_its_dimensions_mean(scan_layers):
    found = {}
    for path, facts, shape in facts_and_shapes(scan_layers):
        name = path[-2] if path[-1] == "scale" else path[-1]
        stack = ("layers",) if "layers" in path else ()
        axes, summed = EXPECTED[name]
        assert (facts.axes, facts.summed, facts.shape) == (stack + axes, summed, shape)
        assert facts.is_stacked == bool(stack)
        assert facts.layer_shape == shape[len(stack) :]
        assert facts.is_matrix == bool(summed)
        assert [facts.axes[i] for i in facts.summed_dimensions] == list(summed)
        found[name] = facts
    assert found.keys() == EXPECTED.keys()


def variances(**changes):
    """The variance of each new matrix, times its fan-in, by the name of the matrix."""
    model, params = small_model(
        embed_dim=64, mlp_dim=256, tied_embedding=False, **changes
    )
    facts, values = (
        traverse_util.flatten_dict(tree) for tree in (parameter_facts(model), params)
    )
    assert facts.keys() == values.keys()
    return {
        path[-1]: float(values[path].var())
        * math.prod(of.shape[i] for i in of.summed_dimensions)
        for path, of in facts.items()
        if of.is_matrix
    }


def test_new_matrices_have_the_variance_of_their_fan_in():
    # Drawn within two deviations, which leaves 0.774 of the variance.
    found = variances()
    assert len(found) == 9
    assert found == pytest.approx(dict.fromkeys(found, 0.774), rel=0.1)
    # With the scale that makes up for it.
    found = variances(init_scale=1.137)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), rel=0.1)


def test_what_blocks_add_can_be_drawn_smaller_with_depth():
    by_depth = variances(init_outputs_by_depth=True)
    plain = variances()
    for name, variance in plain.items():
        if name in ("out", "down"):
            variance /= 2 * SMALL.num_layers
        assert by_depth[name] == pytest.approx(variance, rel=1e-5)

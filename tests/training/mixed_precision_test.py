import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.model.transformer import parameter_facts
from salt_jax.training.train_step import TrainState, Update
from tests.examples import packed_batch, small_model
from tests.training.train_step_test import OPTIMIZERS


def products(jaxpr):
    """Yields the matrix products of a program, in its loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def factors(function, *args):
    """Returns the shapes and dtypes of each product that `function` takes."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return [[v.aval for v in equation.invars] for equation in products(jaxpr)]


def floats(tree):
    leaves = jax.tree.leaves(tree)
    return {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_moments_stay_float32_where_a_model_computes_in_bfloat16(name):
    model, params = small_model(dtype="bfloat16")
    optimizer = OPTIMIZERS[name].build(parameter_facts(model))
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    update = Update(student=model, optimizer=optimizer, chunk_tokens=16)
    after, _ = jax.eval_shape(update, state, None, packed_batch())
    assert floats(state) == floats(after) == {jnp.dtype("float32")}


def test_a_bfloat16_model_multiplies_nothing_but_bfloat16():
    model, params = small_model(dtype="bfloat16")
    read = lambda params: model.apply(params, packed_batch()).logits()
    found = factors(read, params)
    assert len(found) == 10  # Seven weights, the scores, the mixture and the logits.
    assert {x.dtype for pair in found for x in pair} == {jnp.dtype("bfloat16")}


def test_gradients_of_weights_are_sums_in_float32_of_bfloat16_products():
    model, params = small_model(dtype="bfloat16")
    batch = packed_batch(rows=3)  # So that no activation has the size of a weight.

    def total(params):
        return model.apply(params, batch).hidden_BLD.astype(jnp.float32).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total))(params).jaxpr
    layers = jax.tree.leaves(params["params"]["layers"])
    sizes = {np.prod(x.shape[1:]) for x in layers if x.ndim > 2}
    sums = [e for e in products(jaxpr) if e.outvars[0].aval.size in sizes]
    assert len(sums) == 7
    for equation in sums:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype("bfloat16")}
        assert equation.outvars[0].aval.dtype == jnp.float32

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from salt_jax.model.flops import (
    forward_flops,
    matmul_params,
    step_flops,
    training_bill,
)
from salt_jax.model.transformer import Transformer, abstract_params
from tests.examples import SMALL, packed_batch, partitioning, small_model

# Wide enough that matmuls are nearly all of the arithmetic.
WIDE = dataclasses.replace(
    SMALL, embed_dim=256, head_dim=64, mlp_dim=1024, vocab_size=512, scan_layers=False
)


def counted_flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_the_formula_is_what_the_compiler_counts_in_an_unrolled_model():
    model, params = small_model(**{k: getattr(WIDE, k) for k in vars(WIDE)})
    batch = packed_batch(rows=4, length=64)
    forward = lambda params: model.apply(params, batch).logits()
    formula = forward_flops(WIDE, 64) * 4 * 64
    assert counted_flops(forward, params) == pytest.approx(formula, rel=0.05)


def test_a_training_step_is_three_forward_passes():
    model, params = small_model(**{k: getattr(WIDE, k) for k in vars(WIDE)})
    batch = packed_batch(rows=4, length=64)
    loss = lambda params: jnp.sum(jnp.square(model.apply(params, batch).logits()))
    formula = step_flops(WIDE, None, 64) * 4 * 64
    assert counted_flops(jax.grad(loss), params) == pytest.approx(formula, rel=0.05)


def test_a_teacher_costs_one_forward_pass():
    alone = step_flops(WIDE, None, 64)
    assert step_flops(WIDE, SMALL, 64) - alone == forward_flops(SMALL, 64)


def test_every_weight_in_the_layers_is_counted():
    params = abstract_params(Transformer(SMALL, partitioning()))["params"]["layers"]
    weights = [x for x in jax.tree.leaves(params) if len(x.shape) > 2]
    assert matmul_params(SMALL) == sum(x.size for x in weights)


@pytest.mark.parametrize(
    "change", [{}, {"remat": "full"}, {"remat": "full", "post_norms": True}], ids=str
)
def test_the_parts_of_a_step_are_what_the_compiler_counts(change):
    shape = dataclasses.replace(WIDE, **change)
    model, params = small_model(**{k: getattr(shape, k) for k in vars(shape)})
    batch = packed_batch(rows=4, length=64)
    loss = lambda params: jnp.sum(jnp.square(model.apply(params, batch).logits()))
    teacher = dataclasses.replace(SMALL, vocab_size=WIDE.vocab_size)
    parts = training_bill(shape, teacher, 64).by_part
    assert parts["teacher"] == forward_flops(teacher, 64) - unembedding(teacher)
    assert parts["loss"] == 3 * unembedding(shape) + unembedding(teacher)
    own = sum(parts.values()) - forward_flops(teacher, 64)
    assert counted_flops(jax.grad(loss), params) == pytest.approx(
        own * 4 * 64, rel=0.05
    )


def unembedding(config):
    return 2 * config.embed_dim * config.vocab_size

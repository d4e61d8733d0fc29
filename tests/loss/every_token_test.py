"""The loss that distils every token has nothing of a gate in it."""

import re

import jax
import jax.numpy as jnp
import pytest

from salt_jax.loss import chunked_loss
from salt_jax.loss.gates import EveryToken, WhereTeacherLeads, WhereTeacherRanks
from tests.loss.losses_test import (
    TEACHER_D,
    B,
    L,
    V,
    chunked,
    differentiated,
    partitioned,
    unembedding,
)


def program(mesh, **options):
    """The loss and its gradient, lowered for a mesh."""
    run = differentiated(
        chunked, partitioning=partitioned(mesh), chunk_tokens=5, **options
    )
    teacher = unembedding(1, width=TEACHER_D)
    targets_BL = jax.random.randint(jax.random.key(7), (B, L), 0, V)
    tokens = targets_BL, jnp.ones((B, L))
    return run.lower(unembedding(0), teacher, tokens, 0.5).as_text()


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_every_token_is_the_program_without_a_gate(mesh, monkeypatch):
    found = program(mesh, gate=EveryToken())
    # Without the lines that apply a gate, and with those refused that make strengths.
    ungated = lambda self, values, tokens, kd_weight: (values, kd_weight)
    monkeypatch.setattr(chunked_loss.ChunkedBlend, "_gated", ungated)
    monkeypatch.delattr(chunked_loss, "strength")
    assert program(mesh) == found


def test_logits_are_compared_with_a_target_only_for_a_gate_that_needs_its_rank():
    def compared(gate):
        of_logits = rf"compare\s+GT, .*tensor<\d+x{V}x"
        return len(re.findall(of_logits, program("one", gate=gate)))

    gates = EveryToken(), WhereTeacherLeads(), WhereTeacherRanks()
    assert [compared(gate) for gate in gates] == [0, 0, 1]

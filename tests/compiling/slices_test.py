"""What the chips of a slice send each other, by the number of slices.

Compiled for small pods of which there is none here.
"""

import collections
import dataclasses
import importlib.util

import pytest

from salt_jax.compiling import programs
from salt_jax.compiling.compile import compiling
from salt_jax.compiling.inspected import inspect
from salt_jax.compiling.topology import open_topology, prepare_process
from salt_jax.mesh.partitioning import AxisRules, MeshShape
from salt_jax.training.program import Program
from tests import runs

TOPOLOGY = "v5e:2x4"
MODEL = dataclasses.replace(
    runs.STUDENT,
    num_layers=2,
    embed_dim=256,
    head_dim=128,
    mlp_dim=1024,
    dtype="bfloat16",
    remat="full",
)
FSDP = AxisRules(batch=("replica", "data", "model"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
    ),
    pytest.mark.usefixtures("fully_optimized"),
]


def sent(num_slices, rules):
    """The bytes that a chip sends in a step: within a slice by kind, and across."""
    prepare_process(TOPOLOGY)
    topology = open_topology(TOPOLOGY, num_slices)
    experiment = runs.experiment(
        "/nowhere",
        model=MODEL,
        mesh=MeshShape(replica=num_slices, model=2),
        rules=rules,
        batch_size=16 * num_slices,
        seq_len=128,
        loss_chunk_tokens=256,
    )
    program = Program.on(experiment, topology.devices)
    planned = programs.of_stage(program, experiment.stages[1])
    with compiling("O0"):
        found = inspect(planned, topology.available).collectives
    within, across = collections.Counter(), 0
    for one in found:
        if one.across_slices:
            across += one.bytes_per_chip
        else:
            within[one.kind] += one.bytes_per_chip
    return within, across, planned.made["gradients"]


@pytest.mark.parametrize("rules", [FSDP, AxisRules()], ids=["fsdp", "tensor_parallel"])
def test_a_slice_among_others_sends_within_itself_what_it_would_alone(rules):
    alone, nothing, gradients = sent(1, rules)
    among, across, _ = sent(2, rules)
    for kind in "all-gather", "reduce-scatter":
        assert among[kind] == alone[kind] > 0
    # Apart from flags and sums of single numbers.
    assert among["all-reduce"] == pytest.approx(alone["all-reduce"], abs=1024)
    # Once a step, each of two slices sends its half of the sum, and no activations.
    assert nothing == 0
    assert across == pytest.approx(gradients, rel=0.01)
    if rules == FSDP:
        # No gradient of a layer is summed whole, at twice the bytes, and then cut.
        assert among["all-reduce"] < 0.05 * among["reduce-scatter"]

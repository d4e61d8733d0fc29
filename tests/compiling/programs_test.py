import dataclasses
import math

import jax
import pytest

from salt_jax.compiling import programs
from salt_jax.compiling.activations import saved_bytes
from salt_jax.compiling.restore import restore_layout
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.training.program import Program
from tests import runs


def program(**changes):
    return Program.on(runs.experiment("/nowhere", **changes))


def model_of(**changes):
    shape = dataclasses.replace(runs.STUDENT, **changes)
    return program(model=shape, mesh=MeshShape()).student


def test_full_recomputation_keeps_the_input_of_each_layer_and_little_else():
    kept = saved_bytes(model_of(num_layers=40, remat="full"), 16, 16)
    inputs = 40 * (16 // 8) * 16 * 16 * 4  # Layers, rows of a chip, L, D, float32.
    assert inputs < kept < 1.2 * inputs


def test_a_policy_that_computes_less_again_keeps_no_less():
    policies = (
        *("full", "save_attention"),
        *("save_dots_without_batch", "save_dots", "none"),
    )
    kept = [saved_bytes(model_of(remat=remat), 16, 16) for remat in policies]
    assert kept == sorted(kept) and 2 * kept[0] < kept[-1]
    assert kept[0] < kept[1]


def test_what_is_kept_grows_with_the_rows_alone():
    model = model_of(remat="none")
    assert saved_bytes(model, 32, 16) == pytest.approx(2 * saved_bytes(model, 16, 16))


def test_chips_that_split_the_feed_forward_keep_their_share_of_it():
    wide = dataclasses.replace(runs.STUDENT, mlp_dim=4096)
    whole = program(model=wide, mesh=MeshShape()).student
    split = program(model=wide, mesh=MeshShape(model=2)).student
    # Half as many shards of the batch: twice the rows, of half the width.
    kept = saved_bytes(split, 16, 16)
    assert kept == pytest.approx(saved_bytes(whole, 16, 16), rel=0.05)


def test_the_loss_of_a_chip_is_of_its_share_of_the_tokens_of_a_microbatch():
    whole = programs.of_stage(program(), program().experiment.stages[0])
    assert (whole.tokens, whole.tokens_per_chip) == (8 * 16, 16)
    # Four shards of the batch; each pair of chips splits the vocabulary.
    assert (whole.loss.tokens, whole.loss.vocab_shards, whole.num_losses) == (16, 2, 1)
    assert (whole.loss.student_dim, whole.loss.teacher_dim) == (16, 24)
    halves = program(num_microbatches=2)
    half = programs.of_stage(halves, halves.experiment.stages[0])
    assert (half.loss.tokens, half.num_losses) == (8, 2)
    saved = "saved activations"
    assert half.made[saved] == pytest.approx(whole.made[saved] / 2, abs=1)


def test_only_the_stage_with_a_teacher_holds_one_and_evaluation_lies_beside_it():
    planned = {one.name: one for one in programs.of_experiment(program())}
    assert list(planned) == ["distill", "standard", "init", "evaluation"]
    teacher = planned["distill"].held["teacher"]
    assert "teacher" not in planned["standard"].held
    assert planned["evaluation"].beside["teacher"] == teacher > 0
    assert planned["standard"].flops.teacher_forward == 0


def test_one_host_reads_every_byte_of_a_checkpoint_once():
    state = program().abstract_state
    layout = restore_layout(state)
    assert layout.bytes_per_host == layout.total_bytes  # All eight devices are here.
    assert layout.total_bytes / 8 < layout.bytes_per_chip < layout.total_bytes
    sizes = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state)]
    assert (layout.num_arrays, layout.total_bytes) == (len(sizes), sum(sizes))

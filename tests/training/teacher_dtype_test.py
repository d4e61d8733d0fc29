import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from salt_jax.config import Distillation
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.memory import bytes_per_device
from salt_jax.model.quantized import abstract_held, hold
from salt_jax.model.transformer import Transformer
from salt_jax.optim.schedules import Constant
from salt_jax.score import score
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import write_export
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from tests import runs
from tests.examples import partitioning, small_model
from tests.score_test import scoring


def with_teacher(files, dtype, **changes):
    """One stage of two steps with a teacher that is held as `dtype`."""
    experiment = runs.experiment(files, validation=None)
    stage = experiment.stages[0]
    held = dataclasses.replace(stage.distillation, teacher_dtype=dtype)
    stage = dataclasses.replace(stage, end_step=2, distillation=held)
    return dataclasses.replace(experiment, stages=(stage,), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_loaded_as_int8_on_its_shards_and_not_kept_beside(dtype, tmp_path):
    mesh = partitioning(8, model=2)
    model, params = small_model(mesh)
    write_export(
        tmp_path / "export",
        params,
        model=model.config,
        vocabulary=Vocabulary.open(runs.VOCABULARY).path,
        provenance={},
        dtype=dtype,
        seq_len=16,
    )
    like = abstract_held(model, "int8")
    before = {id(x) for x in jax.live_arrays()}
    found = Export.open(tmp_path / "export").load(like)
    new = [x for x in jax.live_arrays() if id(x) not in before]
    assert sum(x.nbytes for x in new) <= sum(x.nbytes for x in jax.tree.leaves(found))
    expected = hold(jax.tree.map(lambda x: x.astype(dtype), params), like)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(
        lambda x: x.sharding, like
    )


@pytest.mark.slow
def test_a_run_with_an_int8_teacher_hears_nearly_what_it_would_from_bfloat16(
    files, tmp_path
):
    records = {}
    # Microbatches change no number, and share the teacher of a step.
    for dtype, microbatches in (("bfloat16", 1), ("int8", 2)):
        run = with_teacher(files, dtype, num_microbatches=microbatches)
        train(run, tmp_path / dtype)
        records[dtype] = [r for r in read_metrics(tmp_path / dtype) if "loss" in r]
    for near, exact in zip(records["int8"], records["bfloat16"], strict=True):
        for name in ("teacher_ce", "kd", "kl", "loss"):
            assert near[name] == pytest.approx(exact[name], abs=2e-3), name
        assert near["teacher_ce"] != exact["teacher_ce"]


@pytest.mark.slow
def test_a_scorer_may_be_held_as_int8(files, tmp_path):
    exact = score(scoring(files, tmp_path / "exact"))
    near = score(scoring(files, tmp_path / "int8", scorer_dtype="int8"))
    exact_ce, near_ce = (scores.column("mean_loss") for scores in (exact, near))
    np.testing.assert_allclose(near_ce, exact_ce, atol=1e-2)
    assert (near_ce != exact_ce).any()


def test_memory_is_counted_for_int8_before_anything_is_allocated(files):
    sizes = {}
    for dtype in ("float32", "bfloat16", "int8"):
        program = Program.on(with_teacher(files, dtype))
        sizes[dtype] = program.held_bytes()["teacher"]
    teacher = Transformer(runs.TEACHER, program.partitioning)
    assert sizes["int8"] == bytes_per_device(abstract_held(teacher, "int8"))
    assert sizes["int8"] < sizes["bfloat16"] < sizes["float32"]


@pytest.mark.parametrize("dtype", ["int4", "float16", "fp8", ""])
def test_a_dtype_that_nothing_is_held_in_is_refused_with_those_there_are(dtype):
    allowed = f"_dtype={dtype!r} is not one of bfloat16, float32, int8.$"
    with pytest.raises(ValueError, match=f"^teacher{allowed}"):
        Distillation(
            teacher=runs.TEACHER,
            teacher_export="",
            kd_weight=Constant(value=0.5),
            teacher_dtype=dtype,
        )
    with pytest.raises(ValueError, match=f"^scorer{allowed}"):
        scoring(pathlib.Path(), "", scorer_dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_nothing_is_computed_or_exported_as_integers(dtype, tmp_path):
    with pytest.raises(ValueError, match=f"^dtype='{dtype}' is not one of bfloat16"):
        dataclasses.replace(runs.TEACHER, dtype=dtype)
    with pytest.raises(ValueError, match=f"^dtype='{dtype}' is not one of bfloat16"):
        write_export(
            tmp_path / "export",
            {},
            model=runs.TEACHER,
            vocabulary="",
            provenance={},
            dtype=dtype,
            seq_len=16,
        )

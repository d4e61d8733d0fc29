import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.evaluate import evaluate_run
from salt_jax.export import export_run
from salt_jax.storage.array_files import fingerprint, write_arrays
from salt_jax.storage.array_pieces import ArrayWriter, StoredArrays
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import new_export, write_export
from salt_jax.storage.finite import NotFiniteError, check_finite
from salt_jax.storage.loaded import LoadedModel
from salt_jax.storage.retention import Retention
from salt_jax.train import train
from salt_jax.training.program import Program
from tests import runs

NAN, INF = float("nan"), float("inf")


def spoil(params, value=NAN):
    """Puts `value` into one number of the last layer of an array."""
    scale = params["params"]["final_norm"]["scale"]
    norm = {"final_norm": {"scale": scale.at[3].set(value)}}
    return {"params": params["params"] | norm}


def spoiled_export(files, path, name="teacher"):
    """Writes an export as one was written when nothing was refused."""
    found = Export.open(files / name)
    params = spoil(LoadedModel.open(files / name).params)

    def write(folder):
        write_arrays(folder, params)
        return fingerprint(params)

    vocabulary = (found.vocabulary_file, found.vocabulary_path.read_bytes())
    fields = {x: getattr(found, x) for x in ("model", "provenance", "dtype", "seq_len")}
    new_export(path, write, vocabulary=vocabulary, **fields)
    return path


NAMED = r"params\.final_norm\.scale"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_arrays_with_bad_numbers_are_named_and_counted(value, dtype):
    bad = jnp.ones((3, 4), dtype).at[1, 2:].set(value)
    tree = {"a": jnp.ones(3, dtype), "b": {"c": bad}, "n": jnp.arange(3)}
    with pytest.raises(NotFiniteError, match=r"^It .* b\.c \(2\)"):
        check_finite(tree, "It")
    check_finite(tree | {"b": 3e38 * jnp.ones(3)}, "It")


def test_an_export_is_refused_where_it_is_loaded_with_its_path_and_the_array(
    files, tmp_path
):
    path = spoiled_export(files, tmp_path / "bad")
    with pytest.raises(ValueError, match=f"{path} .*{NAMED}"):
        LoadedModel.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["teacher", "start"])
def test_a_run_does_not_begin_with_a_teacher_or_a_start_that_is_bad(
    what, files, tmp_path
):
    run = runs.experiment(files, validation=None)
    if what == "start":
        runs.make_teacher(tmp_path / "good", run.model)
        path = spoiled_export(tmp_path, tmp_path / "bad", "good")
        run = dataclasses.replace(run, initial_export=str(path))
    else:
        path = spoiled_export(files, tmp_path / "bad")
        distill, *others = run.stages
        distillation = dataclasses.replace(
            distill.distillation, teacher_export=str(path), teacher_dtype="int8"
        )
        distill = dataclasses.replace(distill, distillation=distillation)
        run = dataclasses.replace(run, stages=(distill, *others))
    with pytest.raises(ValueError, match=f"{path} .*{NAMED}"):
        train(run, tmp_path / "run")


def test_a_checkpoint_is_neither_exported_nor_evaluated(files, tmp_path):
    run = runs.experiment(files, validation=None)
    state = Program.on(run).fresh_state()
    state = dataclasses.replace(state, params=spoil(state.params))
    keep = Retention(every=1, max_to_keep=1)
    with Checkpointer(tmp_path / "checkpoints", keep) as saved:
        saved.save_now(3, state, {"experiment_fingerprint": "", "stage": "distill"})
    said = f"Step 3 of {tmp_path} .*{NAMED}"
    with pytest.raises(ValueError, match=said):
        export_run(run, tmp_path, tmp_path / "export")
    with pytest.raises(ValueError, match=said):
        evaluate_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_what_a_narrower_dtype_cannot_hold_is_not_exported(files, tmp_path):
    found = LoadedModel.open(files / "teacher")
    params = spoil(found.params, np.finfo(np.float32).max)
    with pytest.raises(ValueError, match=f"bad, as bfloat16, .*{NAMED}"):
        write_export(
            tmp_path / "bad",
            params,
            model=found.model.config,
            vocabulary=Export.open(files / "teacher").vocabulary_path,
            provenance={},
            dtype="bfloat16",
            seq_len=16,
        )
    assert not list(tmp_path.iterdir())


def test_pieces_with_bad_numbers_are_neither_written_nor_read(tmp_path):
    values = np.ones((4, 5), np.float32)
    values[2, 3] = np.finfo(np.float32).max
    shapes = {"a.b": jax.ShapeDtypeStruct((4, 5), jnp.bfloat16)}
    with (
        pytest.raises(NotFiniteError, match=r"bfloat16.* a\.b"),
        ArrayWriter(tmp_path / "written", shapes) as writer,
    ):
        writer.write("a.b", values)
    write_arrays(tmp_path / "bad", {"a": {"b": jnp.asarray(values) * 10}})
    with pytest.raises(NotFiniteError, match=rf"{tmp_path / 'bad'} .*a\.b"):
        list(StoredArrays(tmp_path / "bad").pieces("a.b"))

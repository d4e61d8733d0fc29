import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.storage import array_files, free_space
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_folder import CheckpointFolder
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.retention import Retention
from tests.optim.facts import facts_of
from tests.soak import checkpoint_kills

RATE = Constant(value=0.1)
FACTS = facts_of({"embedding_VD": 0, "layers": {"gate": 0}})
ADAMW = AdamW(learning_rate=RATE).build(FACTS)
ADAFACTOR = Adafactor(learning_rate=RATE, min_dim_size_to_factor=4).build(FACTS)
ON_2X4 = Partitioning(mesh=MeshShape(data=2, model=4).build())
ON_8X1 = Partitioning(mesh=MeshShape(data=8, model=1).build())
ON_ONE = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt_state: Any


def make_state(fill, optimizer=ADAMW, embed_dim=16):
    """Returns a boxed state with `fill` in every array."""

    def box(axes, *shape):
        return nn.Partitioned(jnp.full(shape, fill, jnp.float32), axes)

    params = {
        "embedding_VD": box(("vocab", "vocab_embed"), 8, embed_dim),
        "layers": {"gate": box(("layers", "embed", "mlp"), 2, embed_dim, 8)},
    }
    opt_state = jax.tree.map(
        lambda x: jnp.full_like(x, int(fill)), optimizer.init(params)
    )
    return State(jnp.int32(fill), params, opt_state)


def made(fill, partitioning=ON_2X4, optimizer=ADAMW):
    return partitioning.materialize(lambda: make_state(fill, optimizer))


def like(partitioning=ON_2X4, **options):
    return partitioning.abstract(lambda: make_state(0, **options))


def opened(path, **options):
    return Checkpointer(path, Retention(**{"every": 1, "max_to_keep": 2} | options))


def filled(path, *steps, **options):
    """Writes checkpoints with their step in every array."""
    with opened(path, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, made(step), {"step": step})
    return path


def assert_same_state(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


def arrays_of(step_path):
    """Returns the files that hold the arrays of a checkpoint, the largest first."""
    files = [path for path in (step_path / "state").rglob("*") if path.is_file()]
    data = [path for path in files if path.parent.name == "d"]
    return sorted(data, key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("optimizer", [ADAMW, ADAFACTOR], ids=["adamw", "adafactor"])
@pytest.mark.parametrize("target", [ON_2X4, ON_8X1, ON_ONE], ids=["2x4", "8x1", "1"])
def test_a_state_saved_on_one_mesh_is_restored_on_any(tmp_path, optimizer, target):
    state = made(7, optimizer=optimizer)
    wanted = like(target, optimizer=optimizer)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(7, state, {})
        checkpoints.wait()
        found = checkpoints.restore_latest(wanted)
    assert_same_state(found, state)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (x.sharding, x.dtype) == (y.sharding, y.dtype)


def test_an_empty_directory_has_no_latest_state(tmp_path):
    with opened(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_latest(like()) is None
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (None, None)


def test_a_save_happens_when_due_and_at_the_steps_to_keep(tmp_path):
    with opened(tmp_path, every=4, max_to_keep=9, keep_steps=(3, 6)) as checkpoints:
        saved = [
            step for step in range(1, 10) if checkpoints.save(step, made(step), {})
        ]
        checkpoints.wait()
        assert saved == checkpoints.all_steps() == [3, 4, 6, 8]


def test_the_latest_the_best_and_the_steps_to_keep_are_kept(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: 1.6, 6: None, 7: 1.7}
    with opened(tmp_path, keep_steps=(3,)) as checkpoints:
        for step, loss in losses.items():
            metrics = None if loss is None else {"val_loss": loss}
            checkpoints.save(step, made(step), {}, metrics)
    with opened(tmp_path, keep_steps=(3,)) as checkpoints:
        assert checkpoints.all_steps() == [2, 3, 6, 7]
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 7)
        assert_same_state(checkpoints.restore(2, like()), made(2))


def test_meta_is_what_was_saved(tmp_path):
    meta = {"experiment": "abc", "stage": "distill", "versions": {"jax": "0.10"}}
    with opened(tmp_path) as checkpoints:
        checkpoints.save(3, made(3), meta)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.read_meta(3) == meta


def test_a_state_may_be_donated_as_soon_as_its_save_returns(tmp_path):
    overwrite = jax.jit(
        lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0
    )
    big = State(jnp.int32(5), {"w": jnp.full((1000, 1000), 5.0)}, ())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), big
    )
    with opened(tmp_path) as checkpoints:
        checkpoints.save(5, big, {})
        jax.block_until_ready(overwrite(big))
        checkpoints.wait()
        found = checkpoints.restore(5, abstract)
    np.testing.assert_array_equal(found.params["w"], np.full((1000, 1000), 5.0))


def test_save_now_saves_what_is_not_due_and_is_on_disk_when_it_returns(tmp_path):
    with opened(tmp_path, every=100) as checkpoints:
        checkpoints.save_now(7, made(7), {})
        assert (tmp_path / "7" / "state").is_dir()
        checkpoints.save_now(7, made(8), {})
        assert_same_state(checkpoints.restore(7, like()), made(7))


def test_params_are_restored_without_reading_the_optimizer_state(tmp_path):
    filled(tmp_path, 4)
    found = SavedCheckpoints.of(tmp_path).restore_params(4, like(ON_8X1).params)
    assert_same_state(found, made(4).params)
    assert (
        found["embedding_VD"].sharding == like(ON_8X1).params["embedding_VD"].sharding
    )


def test_a_reader_leaves_a_save_in_progress_alone(tmp_path):
    filled(tmp_path, 4)
    unfinished = tmp_path / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert SavedCheckpoints.of(tmp_path).latest_step() == 4
    assert unfinished.is_dir()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(6, made(6), {})
    assert not unfinished.exists()


def test_nothing_is_logged_by_orbax_and_logging_is_as_before(tmp_path, caplog):
    filters = list(logging.getLogger("absl").filters)
    with caplog.at_level(logging.DEBUG):
        filled(tmp_path, 4, 5)
        with opened(tmp_path) as checkpoints:
            checkpoints.restore_latest(like())
    assert [record for record in caplog.records if "orbax" in record.pathname] == []
    assert logging.getLogger("absl").filters == filters


# ---- Trouble -------------------------------------------------------------------------

CHILD = """
    import os, pathlib, resource, signal, sys
    import jax, jax.numpy as jnp
    from salt_jax.storage.checkpoint import Checkpointer
    from salt_jax.storage.retention import Retention

    def state(fill, size):
        return {"params": {"w": jnp.full((size,), fill)}}

    checkpoints = Checkpointer(sys.argv[1], Retention(every=1, max_to_keep=1))
    checkpoints.__enter__()
    checkpoints.save_now(1, state(1.0, 1000), {"step": 1})
"""


def run_child(path, body):
    """Runs `body` in a process that has saved step 1 of its own in `path`."""
    code = textwrap.dedent(CHILD) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def assert_step_1_is_whole(path):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"params": {"w": jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=one)}}
    with opened(path) as checkpoints:
        assert checkpoints.latest_step() == 1
        found = checkpoints.restore_latest(wanted)
        assert checkpoints.read_meta(1) == {"step": 1}
    np.testing.assert_array_equal(found["params"]["w"], np.ones(1000, np.float32))
    deadline = time.monotonic() + 30
    while [entry.name for entry in path.iterdir()] != ["1"]:
        assert time.monotonic() < deadline, "what was left is not removed"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(tmp_path):
    # No file may grow past a limit: what a full disk does to the arrays' files.
    child = run_child(
        tmp_path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        noise = jax.random.normal(jax.random.key(0), (400_000,))
        try:
            checkpoints.save(2, {"params": {"w": noise}}, {})
            checkpoints.save(3, state(3.0, 1000), {})
        except OSError as error:
            print(error)
            print(checkpoints.latest_step())
        checkpoints.__exit__(None)
        """,
    )
    message, latest = child.stdout.splitlines()
    assert message.startswith(f"Saving the checkpoint of step 2 in {tmp_path} failed; ")
    assert "the last good one is of step 1 (" in message
    assert (latest, child.returncode, child.stderr) == ("1", 0, "")
    assert_step_1_is_whole(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", checkpoint_kills.MOMENTS)
def test_a_process_killed_at_any_moment_of_a_save_loses_nothing(tmp_path, moment):
    checkpoint_kills.kill_once(tmp_path, moment, random.Random(3))


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_the_last_good_checkpoint(tmp_path):
    child = run_child(
        tmp_path,
        """
        from orbax.checkpoint._src.path import atomicity
        die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
        # The last thing that a save does: rename the finished folder.
        atomicity.AtomicRenameTemporaryPath.finalize = die
        checkpoints.save(2, state(2.0, 1000), {})
        checkpoints.wait()
        """,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert any(entry.name.startswith("2.orbax") for entry in tmp_path.iterdir())
    assert_step_1_is_whole(tmp_path)


def test_a_failed_save_is_an_error_of_the_next_call_and_only_of_that(
    tmp_path, monkeypatch
):
    with opened(tmp_path) as checkpoints:
        checkpoints.save_now(1, made(1), {})
        with monkeypatch.context() as patch:
            _fail_to_write(patch)
            checkpoints.save(2, made(2), {})
            with pytest.raises(
                OSError, match=r"step 2 .* failed; .* of step 1 \(.*full"
            ):
                checkpoints.wait()
        assert checkpoints.all_steps() == [1]
        checkpoints.save(3, made(3), {})
    with opened(tmp_path) as checkpoints:
        assert checkpoints.all_steps() == [1, 3]


def test_leaving_the_block_reports_a_failed_save(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"step 2 .* failed"), opened(tmp_path) as saved:
        _fail_to_write(monkeypatch)
        saved.save(2, made(2), {})


def test_what_ended_a_run_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch, caplog):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as checkpoints:
        _fail_to_write(monkeypatch)
        checkpoints.save(2, made(2), {})
        raise KeyboardInterrupt
    assert "step 2" in caplog.text


def _fail_to_write(monkeypatch):
    from orbax.checkpoint._src.path import atomicity

    async def fail(self, *args, **kwargs):
        raise OSError(28, "No space left: the disk is full")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", fail)


# ---- Refusals ------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_corrupt_checkpoint_is_refused_by_name_with_what_to_do(tmp_path, damage):
    filled(tmp_path, 1, 2)
    for file in arrays_of(tmp_path / "2"):
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:10])
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"step 2: .*corrupt.*restore_step=1") as e,
    ):
        checkpoints.restore_latest(like())
    assert "\n" not in str(e.value)
    assert str(tmp_path / "2") in str(e.value)
    assert "emove" not in str(e.value)


def test_a_checkpoint_without_its_state_or_meta_is_refused(tmp_path):
    filled(tmp_path, 1)
    (tmp_path / "1" / "meta" / "metadata").write_text("{")
    for file in sorted((tmp_path / "1" / "state").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    with opened(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"step 1|/1/.*start over"):
            checkpoints.restore_latest(like())
        with pytest.raises(ValueError, match=r"step 1|/1/.*start over"):
            checkpoints.read_meta(1)


def test_a_checkpoint_of_another_model_is_refused_by_the_array_that_differs(tmp_path):
    filled(tmp_path, 1)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(
            ValueError, match=r"holds float32\[8, 16\] as .*embed.*\[8, 32\]"
        ),
    ):
        checkpoints.restore_latest(like(embed_dim=32))


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    filled(tmp_path, 1)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="another model or optimizer"),
    ):
        checkpoints.restore_latest(like(optimizer=ADAFACTOR))


def test_a_checkpoint_with_more_than_the_state_is_refused(tmp_path):
    filled(tmp_path, 1)
    wanted = like()
    wanted = wanted.replace(params={"layers": wanted.params["layers"]})
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="where nothing is expected"),
    ):
        checkpoints.restore(1, wanted)


def test_a_checkpoint_of_another_dtype_is_refused(tmp_path):
    filled(tmp_path, 1)
    narrow = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding),
        like().params,
    )
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"float32.* where bfloat16"),
    ):
        checkpoints.restore_params(1, narrow)


def test_a_step_that_was_not_saved_is_refused_with_those_that_were(tmp_path):
    filled(tmp_path, 1, 2)
    with opened(tmp_path) as checkpoints:
        for read in (
            lambda: checkpoints.restore(5, like()),
            lambda: checkpoints.restore_params(5, like().params),
            lambda: checkpoints.read_meta(5),
        ):
            with pytest.raises(FileNotFoundError, match=r"of step 5 .*\[1, 2\]"):
                read()


def test_a_step_before_the_latest_is_not_saved_over(tmp_path):
    filled(tmp_path, 1, 2)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"step 1 .* step 2\b"),
    ):
        checkpoints.save(1, made(9), {})


def test_reading_where_nothing_was_saved_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="was the run ever started"):
        SavedCheckpoints.of(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every must be positive, got 0"),
        ({"max_to_keep": 0}, r"max_to_keep must be positive, got 0"),
        ({"keep_steps": (5, 0)}, r"keep_steps must be positive, got \[5, 0\]"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, **options)


@pytest.mark.parametrize("metrics", [{"loss": 1.0}, {"val_loss": float("nan")}])
def test_metrics_that_rank_nothing_are_refused(tmp_path, metrics):
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="val_loss of step 1 is"),
    ):
        checkpoints.save(1, made(1), {}, metrics)


@pytest.mark.parametrize("name", ["run[lr=0.1]", "run\\1", "run*", "run?"])
def test_a_name_that_is_a_pattern_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"with \* \? \[ or a backslash"):
        opened(tmp_path / name / "checkpoints")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["{a,b} c", "läuft #1 %20", "-x!$'~"])
def test_any_other_name_will_do(tmp_path, name):
    filled(tmp_path / name, 1)
    checkpoints = SavedCheckpoints.of(tmp_path / name)
    checkpoints.verify_arrays(1)
    assert_same_state(checkpoints.restore(1, like()), made(1))


# ---- Checksums -----------------------------------------------------------------------


def test_a_record_with_a_flipped_bit_is_refused_by_its_file(tmp_path):
    filled(tmp_path, 1, 2)
    file = tmp_path / "2" / "meta" / "metadata"
    text = file.read_text()
    file.write_text(text.replace('"step": 2', '"step": 3', 1))
    assert file.read_text() != text
    checkpoints = SavedCheckpoints.of(tmp_path)
    for read in (
        lambda: checkpoints.read_meta(2),
        lambda: checkpoints.restore_latest(like()),
        lambda: checkpoints.verify_index(2),
    ):
        with pytest.raises(ValueError, match=r"2/meta/metadata is damaged.*step=1\."):
            read()


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
    filled(tmp_path, 1, 2)
    (tmp_path / "2").rename(tmp_path / "3")
    with pytest.raises(ValueError, match=r"step 3: .* is of step 2"):
        SavedCheckpoints.of(tmp_path).restore_latest(like())


def test_arrays_of_another_checkpoint_are_refused(tmp_path):
    filled(tmp_path, 1, 2)
    (tmp_path / "2" / "state").rename(tmp_path / "old")
    (tmp_path / "1" / "state").rename(tmp_path / "2" / "state")
    checkpoints = SavedCheckpoints.of(tmp_path)
    for read in (
        lambda: checkpoints.restore(2, like()),
        lambda: checkpoints.restore_params(2, like().params),
        lambda: checkpoints.verify_arrays(2),
    ):
        with pytest.raises(ValueError, match=r"step 2: .*/2/state is damaged: .*sum"):
            read()
    checkpoints.verify_index(2)


def test_the_one_before_is_kept_until_the_new_one_was_read_back(tmp_path, monkeypatch):
    with opened(tmp_path, max_to_keep=1) as checkpoints:
        checkpoints.save_now(1, made(1), {})
        with monkeypatch.context() as patch:
            lose = lambda path, arrays: (_ for _ in ()).throw(
                array_files.CorruptArraysError("no index")
            )
            patch.setattr("salt_jax.storage.checkpoint_folder.check_index", lose)
            with pytest.raises(OSError, match=r"step 2 .*good one is of step 1 .*no i"):
                checkpoints.save_now(2, made(2), {})
        assert checkpoints.all_steps() == [1]
        checkpoints.save_now(2, made(2), {})
        assert checkpoints.all_steps() == [2]


def test_a_failure_of_the_storage_is_not_called_damage(tmp_path, monkeypatch):
    filled(tmp_path, 1)
    monkeypatch.setattr("salt_jax.files.failures.DELAYS", ())

    def fail(*args, **kwargs):
        raise ValueError("Error reading x: [OS error 24: EMFILE Too many open files]")

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", fail)
    with pytest.raises(OSError, match=r"1/state failed: .*ulimit -n") as caught:
        SavedCheckpoints.of(tmp_path).restore_latest(like())
    assert "emove" not in str(caught.value) and "restore_step" not in str(caught.value)


# ---- Room ----------------------------------------------------------------------------


def test_too_little_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    free = 3 * 2**30
    state = {"w": jax.ShapeDtypeStruct((2**28,), jnp.float32)}  # 1 GiB
    disk = lambda path: shutil._ntuple_diskusage(0, 0, free)
    monkeypatch.setattr("shutil.disk_usage", disk)
    folder = CheckpointFolder(tmp_path / "new").directory
    free_space.check_room(folder, state, 3)
    message = r"3.00 GiB free, and 4 more .* of 1.00 GiB need 4.00 GiB"
    with pytest.raises(ValueError, match=message):
        free_space.check_room(folder, state, 4)
    free = 100
    with opened(tmp_path) as checkpoints:
        with pytest.raises(OSError, match=r"step 1 .*0.00 GiB are free"):
            checkpoints.save(1, made(1), {})
        assert checkpoints.all_steps() == []


# ---- Going back ----------------------------------------------------------------------


def test_later_checkpoints_are_set_aside_with_the_metrics_each_time_apart(tmp_path):
    folder = tmp_path / "checkpoints"
    filled(folder, 1, 2, 3, max_to_keep=9)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with opened(folder, max_to_keep=9) as checkpoints:
        assert checkpoints.set_aside_after(3) is None
        aside = checkpoints.set_aside_after(1)
        assert (aside.name, checkpoints.all_steps()) == ("after_step_1", [1])
        checkpoints.save_now(2, made(5), {})
        again = checkpoints.set_aside_after(1)
    assert (aside / "metrics.jsonl").read_text() == "{}\n"
    first = SavedCheckpoints.of(aside / "checkpoints")
    assert first.all_steps() == [2, 3]
    assert_same_state(first.restore(2, like()), made(2))
    second = SavedCheckpoints.of(again / "checkpoints")
    assert_same_state(second.restore(2, like()), made(5))

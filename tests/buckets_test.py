"""Every command on a disk and in a bucket: both end in the same numbers."""

import json
import os
import pathlib
import shutil

import gin
import pytest
from etils import epath

from salt_jax.files import buckets
from salt_jax.files.writing import begin_folder, is_there, name_folder, new_folder
from salt_jax.main import main
from salt_jax.storage.checkpoint_folder import CheckpointFolder
from salt_jax.storage.export import Export
from salt_jax.telemetry.bucket_copy import BucketCopy
from salt_jax.telemetry.metric_writer import METRICS_FILE, MetricWriter, read_metrics
from salt_jax.training.recorder import Recorder
from tests import command_files

FOUND = {}  # By place: what the tests below compare.


def commands(gin_files, root):
    """Yields command lines, in the order in which they need one another."""

    def named(name):
        return f"--gin_file={gin_files}/{name}.gin", f"--workdir={root}/{name}"

    yield "prepare", f"--gin_file={gin_files}/prepare.gin"
    yield "prepare", f"--gin_file={gin_files}/prepare.gin", "--verify"
    yield "train", *named("slm")
    yield "export", *named("slm"), "--step=2", f"--output={root}/early"
    yield "export", *named("slm"), f"--output={root}/teacher"
    yield "score", f"--gin_file={gin_files}/score.gin"
    yield "select", *named("salt")
    for name in "salt", "baseline":
        yield "train", *named(name)
    for name in "slm", "salt", "baseline":
        yield "evaluate", *named(name)
    yield "export", *named("salt"), f"--output={root}/ours"
    yield "export", "--format=hf", f"--export={root}/ours", f"--output={root}/hf"
    yield "import", f"--from={root}/hf", f"--output={root}/back"
    yield (
        "generate",
        f"--export={root}/back",
        "--prompt=the small",
        "--max_new_tokens=4",
    )
    tasks = "--tasks=embedded", "--limit=1", "--max_length=128"
    yield "evaluate", *tasks, f"--export={root}/ours", f"--output={root}/few_shot"
    compared = f"--baseline={root}/baseline", f"--salt={root}/salt"
    yield "compare", *compared
    others = f"--slm={root}/slm", f"--scores={root}/scores"
    yield "report", *compared, *others, f"--output={root}/report"
    words = f"--corpus={root}/corpus", f"--output={root}/vocabulary.model"
    yield "vocabulary", *words, "--size=400"
    yield "train", *named("baseline"), "--restore_step=4"
    yield "status", f"{root}/baseline"
    yield "checkpoints", f"{root}/baseline"


@pytest.fixture(scope="module", params=["disk", "bucket"])
def place(request, tmp_path_factory):
    """The root of a place where every command has run, and the exit codes."""
    here = tmp_path_factory.mktemp("gin_files")
    command_files.write_files(here)
    root = here
    if request.param == "bucket":
        root = epath.Path(request.getfixturevalue("bucket")) / "tour"
        move(here, root)
    codes = []
    for number, command in enumerate(commands(here, root)):
        if number == 7:  # The training with SALT.
            stopped(command)
        codes.append((command, main([*command])))
        gin.clear_config()
    return request.param, epath.Path(root), codes


def move(here, root):
    """Puts the corpus into a bucket, and its name into the gin files."""
    for file in pathlib.Path(here).rglob("*"):
        if file.suffix == ".gin":
            file.write_text(file.read_text().replace(str(here), str(root)))
        elif file.is_file():
            (root / file.relative_to(here)).write_bytes(file.read_bytes())


def stopped(command):
    """Ends a training after its third step, as a kill would between two saves."""

    def end(recorder, step, *others):
        after(recorder, step, *others)
        if step == 3:
            raise KeyboardInterrupt

    after = Recorder.after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "after", end)
        assert main([*command]) == 130
    gin.clear_config()


@pytest.mark.slow
def test_every_command_is_done(place):
    _, _, codes = place
    assert [(command, code) for command, code in codes if code] == []


@pytest.mark.slow
def test_a_run_that_was_stopped_has_each_step_once_and_ends_as_on_a_disk(place):
    kind, root, _ = place
    records = read_metrics(root / "salt")
    losses = {r["step"]: r["loss"] for r in records if "loss" in r}
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 5, 6]
    fingerprint = Export.open(root / "back").fingerprint
    table = json.loads((root / "salt" / "evaluation.json").read_text())
    FOUND[kind] = losses, fingerprint, table
    assert all(found == FOUND[kind] for found in FOUND.values())


@pytest.mark.slow
def test_events_are_beside_the_metrics(place):
    _, root, _ = place
    files = list((root / "salt" / "events").iterdir())
    assert len(files) == 2  # Before the stop and after it.
    assert all(file.stat().length for file in files)


@pytest.mark.slow
def test_checkpoints_after_one_that_is_restored_are_set_aside_whole(place):
    _, root, _ = place
    aside = root / "baseline" / "set_aside" / "after_step_4"
    assert CheckpointFolder(aside / "checkpoints").all_steps() == [6]
    CheckpointFolder(aside / "checkpoints").verify_arrays(6)
    assert CheckpointFolder(root / "baseline" / "checkpoints").all_steps() == [4, 6]


@pytest.mark.slow
def test_nothing_unfinished_is_left(place):
    _, root, _ = place
    names = [name for _, folders, files in root.walk() for name in [*folders, *files]]
    assert len(names) > 100
    assert [x for x in names if "partial" in x or "unfinished" in x] == []


@pytest.mark.slow
def test_what_is_complete_is_not_done_again_and_nothing_is_replaced(place, capsys):
    _, root, codes = place
    done = {command[0]: command for command, _ in reversed(codes)}  # The first of each.
    exported = done["export"]
    for command in (done["prepare"], done["train"], exported):
        capsys.readouterr()
        assert main([*command]) == 0
        said = capsys.readouterr().err
        assert "omplete" in said or "is exported" in said
        gin.clear_config()
    other = command_files.refusal(capsys, *exported[:3], *exported[4:])
    assert "step=2, not 6" in other
    again = "export", "--format=hf", f"--export={root}/ours", f"--output={root}/hf"
    assert "it exists" in command_files.refusal(capsys, *again)


def test_paths_of_other_stores_are_refused_by_name(capsys):
    command = "export", "--gin_file=gin/tiny_slm.gin", "--workdir=s3://bucket/run"
    refused = command_files.refusal(capsys, *command)
    assert "s3://bucket/run" in refused and "gs://" in refused
    command = "train", "--gin_file=gin/tiny_slm.gin", "--gin.DATA='hf://data'"
    assert "hf://data" in command_files.refusal(capsys, *command)


def test_a_bucket_without_its_package_names_the_extra(capsys, monkeypatch):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    command = "train", "--gin_file=gin/tiny_slm.gin", "--workdir=gs://bucket/run"
    assert "pip install -e '.[gcs]'" in command_files.refusal(capsys, *command)


def test_an_unfinished_folder_of_a_bucket_is_not_there_and_is_begun_again(bucket):
    output = epath.Path(bucket) / "unfinished" / "folder"
    folder = begin_folder(output)
    (folder / "old").write_text("old")
    assert output.exists() and not is_there(output)
    with new_folder(output) as folder:
        assert not (folder / "old").exists()
        (folder / "new").write_text("new")
        assert not is_there(output)
    assert is_there(output)
    assert [path.name for path in output.iterdir()] == ["new"]


def test_a_folder_of_a_bucket_that_others_wrote_is_not_removed(bucket):
    output = epath.Path(bucket) / "others"
    (output / "theirs").write_text("theirs")
    name_folder(begin_folder(output), output)
    assert (output / "theirs").read_text() == "theirs"


def test_a_folder_that_is_moved_is_whole_in_one_place_at_any_time(bucket, monkeypatch):
    source, target = (epath.Path(bucket) / "moved" / name for name in ("from", "to"))
    for name in "last", "a/b", "z":
        (source / name).write_text(name)
    remove, copy, there = type(source).unlink, shutil.copyfileobj, []

    def unlink(path, **options):
        there.append("removed")
        remove(path, **options)

    def copied(*arguments):
        there.append((target / "last").exists())
        copy(*arguments)

    monkeypatch.setattr(type(source), "unlink", unlink)
    monkeypatch.setattr(shutil, "copyfileobj", copied)
    buckets.move_folder(source, target, last="last")
    assert there == [False, False, False, "removed"]
    assert not source.exists()
    assert (target / "a" / "b").read_text() == "a/b"


def test_a_file_of_a_bucket_is_copied_once_and_compared(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(buckets.FOLDER_VARIABLE, str(tmp_path))
    path = epath.Path(bucket) / "copied"
    path.write_text("text")
    digest = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    copy = buckets.local_copy(path, sha256=digest)
    path.write_text("something else")
    assert buckets.local_copy(path, sha256=digest) == copy
    assert copy.read_text() == "text"
    with pytest.raises(OSError, match="copied has the SHA-256 .*, not 000000"):
        buckets.local_copy(path, sha256="0" * 64)
    assert os.listdir(copy.parent) == [copy.name]


def test_metrics_reach_the_bucket_before_a_save_and_once_a_minute(bucket):
    now = [0.0]
    workdir = epath.Path(bucket) / "metrics"
    copy = BucketCopy(workdir, clock=lambda: now[0])
    (copy.folder / METRICS_FILE).write_text("1")
    copy.update()
    assert not (workdir / METRICS_FILE).exists()
    now[0] = 60.0
    copy.update()
    copy.flush()
    assert (workdir / METRICS_FILE).read_text() == "1"
    (copy.folder / METRICS_FILE).write_text("12")
    copy.flush()
    assert (workdir / METRICS_FILE).read_text() == "12"
    copy.close()
    assert not copy.folder.exists()


def test_a_bucket_that_cannot_be_written_does_not_stop_the_run(bucket, monkeypatch):
    workdir = epath.Path(bucket) / "failing"
    writer = MetricWriter(workdir, from_step=0)
    writer.write(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(type(workdir), "write_bytes", lambda *_: 1 / 0)
        writer.flush()
    assert not workdir.exists()
    writer.close()
    assert [r["step"] for r in read_metrics(workdir)] == [1]

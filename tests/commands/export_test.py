import json

import numpy as np
import pytest

from salt_jax.files.lock import alone_at
from salt_jax.files.records import write_record
from salt_jax.main import main
from salt_jax.storage.export import Export
from salt_jax.storage.loaded import LoadedModel
from salt_jax.telemetry.metric_writer import read_metrics


def test_a_run_that_was_never_started_is_refused(files, refused, tmp_path):
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={tmp_path}/nothing"]
    for command in "evaluate", "export":
        assert "was the run ever started?" in refused(command, *named)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("step", ["4", "best", "latest"])
def test_an_export_is_of_the_step_that_was_asked_for(step, trained, tmp_path):
    named, workdir = trained
    output = tmp_path / "out"
    assert main(["export", *named, f"--step={step}", f"--output={output}"]) == 0
    losses = {
        r["step"]: r["val_loss"] for r in read_metrics(workdir) if "val_loss" in r
    }
    expected = {"4": 4, "best": min(losses, key=losses.get), "latest": 6}[step]
    provenance = Export.open(output).provenance
    assert (provenance["step"], provenance["stage"]) == (expected, "standard")


@pytest.mark.slow
def test_a_checkpoint_goes_to_hugging_face_and_is_the_same_when_it_comes_back(
    trained, tmp_path, refused
):
    named, workdir = trained
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    (workdir / "export").mkdir(exist_ok=True)  # Another's, and in nobody's way.
    command = ["export", "--format=hf", *named, f"--output={theirs}"]
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert main(["import", f"--from={theirs}", f"--output={back}"]) == 0
    assert main(["export", *named, f"--output={tmp_path}/ours"]) == 0
    embeddings = [
        LoadedModel.open(path).params["params"]["embedding_VD"]
        for path in (tmp_path / "ours", back)
    ]
    np.testing.assert_array_equal(*embeddings)
    assert "Not exporting to" in refused(*command)


def test_a_second_export_of_the_same_says_so_and_leaves_it(trained, tmp_path, capsys):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    before = (tmp_path / "out" / "export.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0
    assert f"is exported to {tmp_path}/out" in capsys.readouterr().err
    assert (tmp_path / "out" / "export.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "option, said",
    [("--step=4", "step=6, not 4"), ("--dtype=bfloat16", "dtype='float32', not 'bf")],
)
def test_another_export_at_the_same_place_is_refused(
    option, said, trained, tmp_path, refused
):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    assert said in refused(*command, option)


def test_an_export_of_another_run_at_the_same_place_is_refused(
    trained, tmp_path, refused
):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    about["provenance"]["experiment_fingerprint"] = "another"
    write_record(tmp_path / "out" / "export.json", about)
    assert "experiment_fingerprint='another', not " in refused(*command)


def test_something_else_where_an_export_is_to_go_is_refused(trained, tmp_path, refused):
    named, _ = trained
    (tmp_path / "out").mkdir()
    assert "is no export" in refused("export", *named, f"--output={tmp_path}/out")


def test_two_exports_to_one_place_are_refused(trained, refused, tmp_path):
    named, _ = trained
    with alone_at(tmp_path / "export"):
        line = refused("export", *named, f"--output={tmp_path}/export")
    assert f"working in {tmp_path}/export (process " in line

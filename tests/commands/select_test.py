import json

import pytest

from salt_jax.files.bill import read_bill
from salt_jax.main import main
from tests import command_files


def selecting(files, output, *overrides):
    return [
        "select",
        *command_files.salt(files, output / "run", *overrides),
        f"--output={output}",
    ]


def test_select_shows_what_training_would_read(files, tmp_path, capsys):
    assert main(selecting(files, tmp_path / "out", "KEEP_FRACTION=0.25")) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"The selection is shown in {tmp_path}/out/selection.html."
    (stage,) = json.loads((tmp_path / "out/selection.json").read_text())["stages"]
    assert out[:-1] == [f"Stage 'distill': {line}" for line in stage["warnings"]]
    assert stage["kept"] == round(0.25 * stage["scored"])
    assert read_bill(tmp_path / "out").seconds["select"] > 0
    assert not (tmp_path / "out/run").exists()


def test_a_selection_is_shown_in_the_workdir_unless_told_otherwise(files, tmp_path):
    assert main(["select", *command_files.salt(files, tmp_path / "run")]) == 0
    assert (tmp_path / "run/selection/selection.html").is_file()


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["SCORES='/nowhere/scores'"], "No scores at /nowhere/scores"),
        (["SCORE='median_k7_zeros'"], "have no column 'median_k7_zeros' to rank by"),
        (["KEEP_FRACTION=2"], "keep_fraction must be in (0, 1], got 2"),
        (["RANKING=@ranking.PerplexityBand()", "BAND='best'"], "band must be one of"),
        (["SELECTION=None"], "none of ['distill', 'standard'] has a Selection"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    overrides, said, files, refused, tmp_path
):
    assert said in refused(*selecting(files, tmp_path / "out", *overrides))
    assert not (tmp_path / "out").exists()


def test_scores_of_another_dataset_are_refused(files, refused, tmp_path):
    data = f"DATA='{tmp_path}/data'"
    other = [f"--gin_file={files}/prepare.gin", f"--gin.{data}"]
    assert main([*other, "--gin.prepare.Preparation.seed=5"]) == 0
    line = refused(*command_files.salt(files, tmp_path / "run", data))
    assert f"The scores {files}/scores are of the dataset" in line

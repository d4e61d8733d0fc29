import json
import shutil

import pytest

from salt_jax.main import main


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[1], tmp_path / "run")


def test_checkpoints_are_listed_with_what_they_are(run, capsys):
    assert main(["checkpoints", str(run)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["step", "MiB", "stage", "val_loss", "arrays"]
    assert [line.split()[0] for line in lines] == ["4", "6"]
    assert "latest" in lines[-1]
    assert all(line.endswith("whole") for line in lines)


def test_json_holds_every_fact_and_damage_sets_the_exit_code(run, capsys):
    (run / "checkpoints/6/meta/metadata").write_text("{}")
    assert main(["checkpoints", str(run), "--quick", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["step"], first["stage"], first["state"]) == (
        4,
        "standard",
        "index read",
    )
    assert first["bytes"] > 10_000
    assert second["step"] == 6 and str(run / "checkpoints/6") in second["state"]


def test_a_directory_without_checkpoints_is_refused(refused, tmp_path):
    assert "was the run ever started" in refused("checkpoints", str(tmp_path))

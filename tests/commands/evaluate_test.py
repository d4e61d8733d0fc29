import json

from salt_jax.main import main


def evaluated(named, workdir, *options):
    assert main(["evaluate", *named, *options]) == 0
    return json.loads((workdir / "evaluation.json").read_text())


def test_an_evaluation_is_printed_and_written_and_can_be_repeated(trained, capsys):
    named, workdir = trained
    capsys.readouterr()
    first = evaluated(named, workdir)
    out = capsys.readouterr().out
    total = first["splits"]["val"]["total"]
    assert f"{total['loss']:.4f}" in out and "bits/byte" in out.splitlines()[0]
    assert first["step"] == 6 and set(first["splits"]) == {"val", "test"}
    assert json.loads((workdir / "samples.json").read_text())["samples"] == []
    assert evaluated(named, workdir) == first


def test_an_export_evaluates_to_the_numbers_of_its_checkpoint(trained, tmp_path):
    named, workdir = trained
    assert main(["export", *named, f"--output={tmp_path}/out"]) == 0
    direct = evaluated(named, workdir)
    of_export = evaluated(named, workdir, f"--export={tmp_path}/out")
    assert of_export == direct
    early = evaluated(named, workdir, "--step=4")
    assert early["step"] == 4 and early["splits"] != direct["splits"]


def test_an_evaluation_of_other_steps_than_there_are_is_refused(trained, refused):
    named, _ = trained
    assert "No checkpoint of step 5 in" in refused("evaluate", *named, "--step=5")
    line = refused("evaluate", *named, "--step=last")
    assert "--step=last" in line and "latest or best" in line


def test_what_is_for_few_shot_tasks_is_refused_without_them(trained, refused):
    named, _ = trained
    assert "--limit is for --tasks" in refused("evaluate", *named, "--limit=3")
    two = ("--export=one", "--export=two")
    assert "of one --export at a time" in refused("evaluate", *named, *two)

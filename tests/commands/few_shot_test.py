import json
import sys

import pytest
from etils import epath

from salt_jax import few_shot
from salt_jax.few_shot import side_by_side
from salt_jax.main import main
from salt_jax.storage.export import Export
from tests import runs


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for name, model, seed in ("slm", runs.TEACHER, 1), ("llm", runs.STUDENT, 2):
        runs.make_teacher(folder / name, model, seed=seed)
    return folder


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


@pytest.mark.slow
def test_exports_stand_side_by_side_whole_and_sliced_and_in_lm_evals_files(
    exports, tmp_path, capsys
):
    code = evaluate(
        *(f"--export={exports / name}" for name in ("slm", "llm")),
        "--tasks=cause_and_effect,past_tense_irregular,last_word_cloze",
        "--limit=7",
        "--max_length=128",
        f"--slices_by={exports / 'slm'}",
        f"--output={tmp_path}",
    )
    printed = capsys.readouterr().out
    assert code == 0
    head = ["task", "metric", "examples", "shots", "chance", "slm", "llm"]
    assert printed.split("\n")[0].split() == head
    tables = json.loads((tmp_path / "few_shot.json").read_text())
    for name in "slm", "llm":
        (results,) = (tmp_path / name).glob("results_*.json")
        said = json.loads(results.read_text())
        assert said["n-samples"]["cause_and_effect"]["effective"] == 7
        (row, *_) = [x for x in tables["tasks"] if x["name"] == "cause_and_effect"]
        number = said["results"]["cause_and_effect"]["acc,none"]
        assert row["marks"][name]["value"] == number
        (samples,) = (tmp_path / name).glob("samples_cause_and_effect_*.jsonl")
        answers = [json.loads(line) for line in samples.read_text().splitlines()]
        assert len(answers) == 7
        assert sum(x["acc"] for x in answers) / 7 == pytest.approx(number)
    parts = [x for x in tables["slices"] if x["name"] == "cause_and_effect"]
    own = [x["marks"]["slm"]["value"] for x in parts]
    assert [x["part"] for x in parts] == ["easy", "medium", "hard"]
    assert own == sorted(own, reverse=True)
    assert sum(x["examples"] for x in parts) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks=embedded"], "give --export=DIR"),
        (["--tasks=a,,b", "--export=x"], "has an empty name"),
        (["--tasks=embedded", "--export=x", "--export=./x"], "twice: x, ./x"),
        (["--tasks=embedded", "--export=/nowhere/x"], "No export at /nowhere/x"),
        (["--export=x"], "Give --gin_file=FILE"),
        (["--tasks=a", "--export=x", "--workdir=y"], "--workdir"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(arguments, said, capsys):
    assert evaluate(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert said in line


def test_a_task_without_room_in_one_export_is_refused_before_any_is_asked(
    exports, monkeypatch, tmp_path, capsys
):
    lengths = {"slm": 128, "llm": 9}
    monkeypatch.setattr(Export, "max_length", lambda self, _: lengths[self.path.name])
    monkeypatch.setattr(side_by_side._Results, "ask", None)
    both = [f"--export={exports / name}" for name in lengths]
    tasks = "--tasks=country_capital, past_tense_regular"
    assert evaluate(*both, tasks, f"--output={tmp_path / 'asked'}") == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert "room for" in line and "llm" in line
    assert "past_tense_regular (8)" in line and "country_capital" not in line
    assert not (tmp_path / "asked").exists()


def test_results_go_where_output_says(exports, monkeypatch, tmp_path, capsys):
    for name in "ask", "tables":
        monkeypatch.setattr(side_by_side._Results, name, lambda *_: {})
    monkeypatch.chdir(tmp_path)
    asked = [f"--export={exports / 'slm'}", "--tasks=country_capital"]
    assert evaluate(*asked, "--max_length=64") == 0
    assert evaluate(*asked, "--max_length=64", "--output=here") == 0
    said = capsys.readouterr().out.split()
    assert "runs/few_shot." in said and "here." in said
    assert sorted(x.name for x in tmp_path.iterdir()) == ["here", "runs"]
    assert (tmp_path / "here" / "few_shot.json").is_file()


def test_an_output_that_cannot_be_reached_is_refused():
    class Nowhere(type(epath.Path("x"))):
        def mkdir(self, **_):
            raise ImportError("Please install gcsfs")

    with pytest.raises(ValueError, match="--output=.*Please install gcsfs"):
        side_by_side._make(Nowhere("x"))


def test_without_lm_eval_it_is_said_how_to_install_it(monkeypatch, capsys):
    monkeypatch.delattr(few_shot, "tasks", raising=False)
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "salt_jax.few_shot.tasks", raising=False)
    assert evaluate("--tasks=embedded", "--export=x") == 2
    assert "pip install -e '.[eval]'" in capsys.readouterr().err

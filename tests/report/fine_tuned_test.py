import numpy as np
import pytest

from salt_jax.files.records import write_record
from salt_jax.report.fine_tuned import fine_tuned_table, is_fine_tuned
from salt_jax.report.seeds import Pair
from tests.sealed import write_lines


def means(value, questions=10):
    return {
        "questions": questions,
        "tokens": 3 * questions,
        "loss": 2 - value,
        "exact_match": value,
        "f1": value / 2,
        "rouge1": value,
        "rouge2": value,
        "rougeL": value / 4,
    }


def write_run(folder, value, *, seed=0, source="embedded:sft/rivers", kinds=("a", "b")):
    columns = {
        "kind": {kind: means(value / 10, 5) for kind in kinds},
        "field": {"depth": means(0.9)},
    }
    splits = {
        "val": {"columns": {}, "total": means(0.77)},
        "test": {"columns": columns, "total": means(value)},
    }
    folder.mkdir(parents=True)
    data = {"type": "Answers", "source": source}
    stage = {"name": "standard", "end_step": 5, "data": data}
    experiment = {"seed": seed, "stages": [stage], "validation": {"data": data}}
    for name, content in (
        ("evaluation.json", {"step": 5, "params": 1, "splits": splits}),
        ("experiment.json", experiment),
        ("samples.json", {"samples": []}),
    ):
        write_record(folder / name, content)
    write_lines(folder / "metrics.jsonl", [{"step": 5}])


def pair_of(folder, baseline, salt, **of):
    write_run(folder / "baseline", baseline, **of)
    write_run(folder / "salt", salt, **of)
    return Pair.read(folder / "baseline", folder / "salt")


@pytest.fixture
def pairs(tmp_path):
    values = [(0.20, 0.30), (0.24, 0.32), (0.10, 0.24)]
    return [
        pair_of(tmp_path / str(seed), *pair, seed=seed)
        for seed, pair in enumerate(values)
    ]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_the_mean_and_standard_error_of_each_start(pairs):
    _, _, baseline, salt, difference, *_ = map(
        cells, fine_tuned_table(pairs).split("\n")
    )
    assert baseline[:3] == ["rivers: all", "10", "BASELINE"]
    assert (salt[2], difference[2]) == ("SALT", "difference")
    values = np.array([0.20, 0.24, 0.10]) * 100
    error = values.std(ddof=1) / 3**0.5
    assert baseline[3] == f"{values.mean():.1f} \u00b1 {error:.1f} %"
    assert (
        salt[4]
        == f"{0.86 / 6:.3f} \u00b1 {np.std([0.15, 0.16, 0.12], ddof=1) / 3**0.5:.3f}"
    )


def test_the_difference_is_taken_within_a_seed(pairs):
    difference = cells(fine_tuned_table(pairs).split("\n")[4])
    values = np.array([10.0, 8.0, 14.0])
    error = values.std(ddof=1) / 3**0.5
    low, high = values.mean() + np.array([-1, 1]) * 4.302653 * error
    assert difference[3] == (
        f"+{values.mean():.1f} \u00b1 {error:.1f} [{low:+.1f}, {high:+.1f}] %"
    )
    assert difference[6].startswith("-")  # The loss of SALT is less.


def test_each_value_of_the_first_column_has_rows_of_its_own(pairs):
    names = [cells(line)[0] for line in fine_tuned_table(pairs).split("\n")[2:]]
    expected = ["rivers: all", "rivers: a", "rivers: b"]
    assert [name for name in names if name] == expected


def test_each_set_has_rows_of_its_own(pairs, tmp_path):
    other = pair_of(tmp_path / "other", 0.5, 0.4, source="tfds:anli/r1", kinds=("c",))
    lines = [cells(line) for line in fine_tuned_table([*pairs, other]).split("\n")[2:]]
    names = [line[0] for line in lines if line[0]]
    assert names[-2:] == ["r1: all", "r1: c"]
    # One seed has no standard error.
    assert lines[-4][2:4] == ["difference", "-10.0 %"]


def test_runs_that_were_asked_other_questions_are_refused(pairs, tmp_path):
    write_run(tmp_path / "x", 0.5, kinds=("c",))
    write_run(tmp_path / "y", 0.5, kinds=("a", "b"))
    other = Pair.read(tmp_path / "x", tmp_path / "y")
    with pytest.raises(ValueError, match="not evaluated on the same questions"):
        fine_tuned_table([*pairs, other])


def test_a_run_that_was_evaluated_on_text_is_not_fine_tuned(pairs, tmp_path):
    assert is_fine_tuned(pairs[0].salt)
    folder = tmp_path / "text"
    write_run(folder, 0.1)
    evaluation = {"step": 5, "splits": {"val": {"domains": {}, "total": {}}}}
    write_record(folder / "evaluation.json", evaluation)
    pair = Pair.read(folder, folder)
    assert not is_fine_tuned(pair.salt)

"""A small study from its runs to its page, resumed, and labels measured on text."""

import dataclasses
import math
import re

import pytest

from salt_jax.bias_variance.measure import measure_labels
from salt_jax.bias_variance.study import run_study
from salt_jax.bias_variance.sweep import Curve
from salt_jax.bias_variance.write import findings, write_page
from salt_jax.commands import bias_variance
from salt_jax.files.records import read_record
from tests import runs
from tests.known_language import study


@pytest.mark.slow
def test_a_study_trains_measures_and_resumes(tmp_path):
    found = run_study(study(tmp_path))
    assert found["tokens"] == [256, 512]
    assert set(found["arms"]) == {"one_hot", "brief"}
    teacher = found["teachers"]["brief"]
    # The teacher is as large as the student, and fresh: both are far from the truth.
    assert 0.01 < teacher["labels"]["kl"] < 5.0
    # The same model on other rows of the language.
    assert teacher["excess_risk"] == pytest.approx(teacher["labels"]["kl"], rel=0.2)
    assert [x["step"] for x in teacher["gradients"]] == [4, 8]
    for at in teacher["gradients"]:
        assert set(at["soft"]) == {"teacher", "truth"}
        assert at["soft"]["truth"]["variance"] < at["one_hot"]["variance"]
    written = {path: path.stat().st_mtime_ns for path in metrics(tmp_path)}
    assert len(written) == 6
    assert len(teacher["leaves"]["by_seed"]) == 1
    again = run_study(study(tmp_path))
    assert again == found
    assert written == {path: path.stat().st_mtime_ns for path in metrics(tmp_path)}
    page = write_page(tmp_path / "study", {"known_truth": found}, "the command")
    assert "the command" in page.read_text()
    numbers = read_record(tmp_path / "study/bias_variance.json", dict, remedy="")
    assert numbers["known_truth"]["arms"] == found["arms"]
    with pytest.raises(ValueError, match="seq_len"):
        run_study(study(tmp_path, seq_len=4))


def metrics(folder):
    return sorted(folder.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_labels_are_measured_on_text(tmp_path):
    runs.make_files(tmp_path)
    for seed in 1, 2:
        runs.make_teacher(tmp_path / f"student-{seed}", runs.STUDENT, seed=seed)
    experiment = runs.experiment(tmp_path)
    exports = [tmp_path / "student-1", tmp_path / "student-2"]
    settings = {"num_batches": 3, "confident_below": 100.0}
    with pytest.raises(ValueError, match="Two of the exports have one name: step 3"):
        measure_labels(experiment, exports, **settings)
    found = measure_labels(experiment, exports[:1], **settings)
    assert found["distance_from_truth"] is None
    (at,) = found["gradients"]
    assert (at["student"], set(at["soft"])) == ("step 3", {"teacher"})
    *_, every = found["difficulty"]["thirds"]
    # With such a bound the teacher is always confident.
    assert every["wrong_and_confident"] == every["wrong"] > 0.5
    page = write_page(tmp_path / "page", {"labels": found}, "the command")
    assert "wrong and confident" in page.read_text()
    none = dataclasses.replace(experiment, validation=None)
    assert measure_labels(none, exports[:1], **settings)["difficulty"] is None
    # Rows of padding, which have large logits, change nothing that the teacher says.
    runs.make_padded_teacher(tmp_path)
    first, second = experiment.stages
    masked = runs.padded_teacher(tmp_path)
    masked = dataclasses.replace(first.distillation, **masked)
    stages = (dataclasses.replace(first, distillation=masked), second)
    padded = dataclasses.replace(experiment, stages=stages)
    again = measure_labels(padded, exports[:1], **settings)
    for name in "gradients", "difficulty":
        assert numbers(again[name]) == pytest.approx(numbers(found[name]), rel=1e-4)


def numbers(found):
    """All numbers of nested measurements, in their order."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [x for part in found for x in numbers(part)]
    return [found] if isinstance(found, (int, float)) else []


def test_a_curve_is_at_a_loss_between_two_measurements():
    records = [
        {"step": step, "val_loss": loss, "val_excess_risk": loss - 1.0}
        for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5), (40, 1.5))
    ]
    curve = Curve.of([{"step": 5, "loss": 9.0}, *records])
    assert curve.first_step_at(2.25) == 17.5
    assert curve.first_step_at(3.5) == 10.0
    assert curve.first_step_at(1.0) is None
    assert curve.final == 0.5


@pytest.mark.parametrize(
    "crossing, said", [(0.0, "lose at every"), (300.0, "about 300"), (math.inf, "most")]
)
def test_a_finding_says_where_labels_stop_to_pay(crossing, said):
    teacher = {"crossing_tokens": crossing, "excess_risk": 0.1}
    (text,) = findings({"tokens": [100, 900], "teachers": {"t": teacher}})
    assert re.search(said, text)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"batches": 1}, "two --batches, got 1"),
        ({"confident_below": 0.0}, "above 0, got 0.0"),
    ],
)
def test_options_that_measure_nothing_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        bias_variance.Options(gin_file=("x.gin",), **arguments)


@pytest.mark.parametrize(
    "file, arguments, said",
    [
        ("gin/tiny_known_truth.gin", {"export": ("x",)}, "--export is for an Exp"),
        ("gin/tiny_salt_ds.gin", {"output": "x"}, "--output=DIR and one --export"),
        ("gin/tiny_prepare.gin", {}, "needs Experiment or KnownTruth"),
    ],
)
def test_options_that_do_not_go_with_the_gin_file_are_refused(file, arguments, said):
    options = bias_variance.Options(gin_file=(file,), **arguments)
    with pytest.raises(ValueError, match=said):
        bias_variance.run(options)

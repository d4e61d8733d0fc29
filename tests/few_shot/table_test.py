import dataclasses
import types

import pytest

from salt_jax.few_shot.metrics import (
    Estimate,
    Metric,
    group_means,
    sample_mean,
    task_metrics,
)
from salt_jax.few_shot.slices import PARTS, can_be_sliced, slice_rows, thirds
from salt_jax.few_shot.table import Row, render, rows


def task(metrics, **metadata):
    return types.SimpleNamespace(
        aggregation=lambda: dict.fromkeys(metrics),
        get_config=lambda key: metadata if key == "metadata" else None,
    )


def group(children, **metadata):
    return types.SimpleNamespace(child_names=children, metadata=metadata)


TASKS = {
    "choice": task(["acc", "acc_norm"], chance=0.25),
    "cloze": task(["exact_match", "target_bits"], chance=0.05),
    "squadv2": task(["exact", "best_f1"], chance=0.15),
}
GROUPS = {
    "all": group(["choice", "rest"]),
    "rest": group(["cloze", "squadv2"], metric={"squadv2": "best_f1"}),
}


def results(acc):
    return {
        "results": {
            "choice": {"acc,none": acc, "acc_stderr,none": 0.03, "acc_norm,none": 0.5},
            "cloze": {
                "exact_match,strict": 0.1,
                "exact_match_stderr,strict": 0.04,
                "target_bits,strict": 7.5,
                "target_bits_stderr,strict": "N/A",
            },
            "squadv2": {"best_f1,none": 30.0, "best_f1_stderr,none": 5.0},
        },
        "n-samples": {name: {"effective": 20} for name in TASKS},
        "n-shot": dict.fromkeys(TASKS, 1),
    }


@pytest.fixture
def found():
    both = {"a": results(0.6), "b": results(0.4)}
    return rows(task_metrics(TASKS, GROUPS), GROUPS, both)


def test_the_first_metric_counts_unless_a_group_names_another():
    first = {x.task: x.metric for x in task_metrics(TASKS, GROUPS) if x.is_first}
    assert first == {"choice": "acc", "cloze": "exact_match", "squadv2": "best_f1"}


def test_what_is_known_of_a_task_does_not_depend_on_how_it_was_named():
    tasks = {"squadv2": task(["exact", "best_f1"]), "piqa": task(["acc", "acc_norm"])}
    choice = {"squadv2": "best_f1", "piqa": "acc_norm"}
    groups = {"group": group(list(tasks), metric=choice)}
    alone = {(x.task, x.metric): x for x in task_metrics(tasks, {})}
    assert {x.factor for x in alone.values() if x.task == "squadv2"} == {0.01}
    assert {x.chance for x in alone.values() if x.task == "piqa"} == {0.5}
    for measure in task_metrics(tasks, groups):
        by_name = alone[measure.task, measure.metric]
        assert measure == dataclasses.replace(by_name, is_first=True)


def test_a_group_counts_its_tasks_and_its_groups_alike(found):
    means = {row.name: row for row in found if row.metric == "mean"}
    rest = (0.1 + 0.3) / 2
    assert means["rest"].marks["a"].value == pytest.approx(rest)
    assert means["all"].marks["a"].value == pytest.approx((0.6 + rest) / 2)
    assert means["all"].marks["b"].value == pytest.approx((0.4 + rest) / 2)
    assert means["all"].chance == pytest.approx((0.25 + (0.05 + 0.15) / 2) / 2)


def test_the_error_of_a_mean_is_that_of_independent_parts(found):
    means = {row.name: row.marks["a"] for row in found if row.metric == "mean"}
    rest = (0.04**2 + 0.05**2) ** 0.5 / 2
    assert means["rest"].stderr == pytest.approx(rest)
    assert means["all"].stderr == pytest.approx((0.03**2 + rest**2) ** 0.5 / 2)


def test_a_group_of_which_something_has_no_share_has_no_mean():
    marks = {"choice": Estimate(0.5, 0.1), "cloze": Estimate(0.5, None)}
    assert group_means(GROUPS, marks) == {}
    marks["squadv2"] = Estimate(0.3, 0.1)
    assert group_means(GROUPS, marks)["rest"] == Estimate(0.4, None)


def test_a_table_shows_percent_with_errors_and_chance(found):
    lines = {
        tuple(line.split()[:2]): line.split() for line in render(found).split("\n")
    }
    assert lines["task", "metric"][2:] == ["examples", "shots", "chance", "a", "b"]
    assert lines["choice", "acc"][2:6] == ["20", "1", "25.0", "60.0"]
    assert lines["choice", "acc"][6:] == ["+-", "3.0", "40.0", "+-", "3.0"]
    # Bits are no share: no chance, no percent; the error is not known.
    assert lines["cloze", "target_bits"][2:] == ["20", "1", "7.5", "7.5"]
    assert lines["squadv2", "best_f1"][4:8] == ["15.0", "30.0", "+-", "5.0"]
    assert lines["all", "mean"][2:4] == ["17.5", "40.0"]


def test_what_is_not_known_to_be_a_share_is_shown_with_four_digits():
    marks = {"a": Estimate(0.1234, 0.02), "b": Estimate(12345.6, None)}
    row = Row(name="humaneval", metric="pass@1", is_share=False, marks=marks)
    *_, a, b = render([row]).split("\n")[1].split("  ")
    assert (a, b) == ("0.1234 +- 0.02", "1.235e+04")


def test_it_is_said_why_a_group_has_no_mean(caplog):
    tasks = {"cloze": TASKS["cloze"], "cola": task(["mcc"])}
    groups = {"glue": group(list(tasks)), "both": group(["glue", "cloze"])}
    said = results(0.5)
    said["results"]["cola"] = {"mcc,none": 0.2}
    for counts in said["n-samples"], said["n-shot"]:
        counts["cola"] = counts["cloze"]
    with caplog.at_level("WARNING", logger="absl"):
        found = rows(task_metrics(tasks, groups), groups, {"a": said})
    assert not [row for row in found if row.metric == "mean"]
    assert [record.getMessage() for record in caplog.records] == [
        f"The group {name} has no mean: the primary metric of cola is not a proportion."
        for name in groups
    ]


def samples(values):
    return [{"doc_id": 10 + i, "acc": value} for i, value in enumerate(values)]


def test_thirds_are_by_the_metric_and_then_by_the_likelihood_of_the_right_answer():
    of_task = samples([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    nats = [-1.0, -9.0, -2.0, -3.0, -5.0, -2.0, -4.0]
    parts = thirds(of_task, "acc", nats)
    assert parts == {"easy": [12, 14], "medium": [11, 10], "hard": [15, 13, 16]}


def test_every_example_is_in_one_part():
    for count in range(3, 12):
        parts = thirds(samples([0.0] * count), "acc", [0.0] * count)
        together = [i for part in PARTS for i in parts[part]]
        assert sorted(together) == list(range(10, 10 + count))
        sizes = [len(parts[part]) for part in PARTS]
        assert max(sizes) - min(sizes) <= 1


def test_a_model_is_marked_on_the_examples_of_each_part():
    measure = Metric(task="choice", metric="acc", is_share=True, is_first=True)
    parts = {measure: {"easy": [12, 14], "medium": [11, 10], "hard": [13, 15]}}
    models = {"a": {"choice": samples([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])}}
    rows_of = slice_rows(parts, models, {"group": group(["choice"])})
    values = {(row.name, row.part): row.marks["a"].value for row in rows_of}
    expected = {"easy": 1.0, "medium": 0.5, "hard": 0.0}
    assert values == {
        (name, part): value
        for name in ("choice", "group")
        for part, value in expected.items()
    }
    head = render(rows_of).split("\n")[0].split()
    assert head == ["task", "metric", "part", "examples", "a"]


def test_what_has_no_number_for_each_example_is_not_split():
    measure = Metric(task="x", metric="acc", is_share=True, is_first=True)
    assert can_be_sliced(measure, samples([0.0, 1.0, 0.0]))
    assert not can_be_sliced(measure, samples([0.0, 1.0]))
    assert not can_be_sliced(measure, samples([0.0, (1, 2), 0.0]))


def test_the_error_of_a_mean_of_examples_is_that_of_the_sample():
    assert sample_mean([0.0, 1.0, 1.0, 1.0]) == Estimate(0.75, pytest.approx(0.25))
    assert sample_mean([1.0]) == Estimate(1.0, None)

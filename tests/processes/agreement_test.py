"""What differs between processes is named, with the process and both values."""

import re

import pytest

from salt_jax.processes.agreement import difference

NAMES = {i: f"process {i} (host-{i})" for i in range(4)}
FACTS = {"seed": 0, "stages": [{"end_step": 4}, {"end_step": 7}], "inputs": {}}


def told(*changes):
    return dict(enumerate([FACTS, *(FACTS | change for change in changes)]))


def test_processes_that_agree_have_no_difference():
    assert difference(told({}, {}), NAMES) == ""


def test_the_process_and_both_values_are_named():
    assert difference(told({}, {"seed": 1}), NAMES) == (
        "Process 2 (host-2) has seed=1; process 0 (host-0) has seed=0."
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"stages": [{"end_step": 4}, {"end_step": 8}]}, "stages.1.end_step=8;.*=7"),
        ({"stages": [{"end_step": 4}]}, "stages.1.end_step=nothing"),
        ({"inputs": {"data": "ab"}}, 'inputs.data="ab";.*inputs.data=nothing'),
        ({"seed": "0"}, 'seed="0"'),
        ({"seed": 0.0}, "seed=0.0"),
    ],
)
def test_a_nested_or_missing_fact_is_named(change, said):
    assert re.search(said, difference(told(change), NAMES))


def test_of_many_differences_some_are_named_and_the_rest_counted():
    many = {f"field_{i}": i for i in range(8)}
    said = difference(told(many, many), NAMES)
    assert "field_4=4" in said and "field_5" not in said
    assert "3 more differences" in said and "1 more differ" in said

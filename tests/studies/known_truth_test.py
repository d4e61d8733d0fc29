"""Studies that contradict themselves are refused."""

import dataclasses

import pytest

from tests.known_language import study


def teacher(**fields):
    return dataclasses.replace(study().teachers[0], **fields)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"student_steps": (10, 8)}, r"student_steps must increase .* \[10, 8\]"),
        ({"student_steps": (2, 8)}, r"warmup_steps=2, got \[2, 8\]"),
        ({"student_steps": ()}, r"got \[\]"),
        ({"teachers": ()}, "one of them at least"),
        ({"teachers": (teacher(), teacher())}, r"\['brief', 'brief'\]"),
        ({"teachers": (teacher(name="one_hot"),)}, "'one_hot' is the student without"),
        ({"teachers": (teacher(num_steps=2),)}, "'brief' needs more num_steps"),
        ({"kd_weight": 0.0}, "kd_weight must be in .* got 0.0"),
        ({"seeds": (1, 1)}, r"seeds must be different ones, got \[1, 1\]"),
        ({"gradient_batches": 1}, "2 or more"),
        ({"gradient_steps": (9,)}, "from 1 to 8, got 9"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(study(), **fields)


def test_the_name_of_a_teacher_names_a_folder():
    with pytest.raises(ValueError, match="no slash, got 'a/b'"):
        teacher(name="a/b")


def test_a_step_reads_as_many_tokens_as_a_batch_has():
    assert study(batch_size=16).tokens_per_step == 16 * 8

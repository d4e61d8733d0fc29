import pytest

from salt_jax.report.arms.results import pays_from, side


@pytest.mark.parametrize(
    ("share", "bill", "students"),
    [
        (0.8, 0.5, 3),  # 0.8 + 0.5 / 3 < 1 < 0.8 + 0.5 / 2.
        (0.75, 0.5, 3),  # With two students exactly as much as the reference.
        (0.75, 0.125, 1),
        (0.9, 0.0, 1),
        (1.0, 0.0, None),
        (1.2, 0.5, None),
    ],
)
def test_students_pay_less_than_the_reference_from_that_number_on(
    share, bill, students
):
    assert pays_from(share, bill) == students
    if students is not None:
        assert share + bill / students < 1
        assert students == 1 or share + bill / (students - 1) >= 1


@pytest.mark.parametrize(
    ("mean", "interval", "found"),
    [
        (0.2, (0.1, 0.3), "worse"),
        (-0.2, (-0.3, -0.1), "better"),
        (0.2, (-0.1, 0.5), "equal"),
        (-0.2, None, "better"),
        (0.2, None, "worse"),
    ],
)
def test_a_teacher_is_told_apart_from_the_student_by_its_interval(
    mean, interval, found
):
    assert side(mean, interval) == found

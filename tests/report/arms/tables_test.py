import pytest

from salt_jax.report.arms.results import Students
from salt_jax.report.arms.tables import Table, number, percent, students
from salt_jax.report.intervals import Estimate


def test_a_row_has_a_cell_for_each_heading():
    with pytest.raises(ValueError, match=r"Costs.*\['a', 'b'\]"):
        Table(title="Costs", header=["Arm", "x", "y"], rows=[["a", "b"]])


def test_markdown_escapes_what_divides_cells():
    table = Table(title="T", header=["Arm", "x"], rows=[["a|b", "1"]])
    assert "| a\\|b | 1 |" in table.markdown()


def test_one_seed_is_shown_without_an_interval():
    one = Estimate.of([0.75])
    assert (number(one, "+.3f"), percent(one)) == ("+0.750", "75 %")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        (Students(count=3, fewest=3, most=3), "3"),
        (Students(count=3, fewest=2, most=None), "3 [2, never]"),
        (Students(count=None, fewest=None, most=None), "never"),
    ],
)
def test_the_number_of_students_has_that_of_both_ends(found, text):
    assert students(found) == text

import pytest

from salt_jax.report.arms import answer
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import results
from tests.report.arms import made_lab
from tests.sealed import write_lines


@pytest.fixture
def root(tmp_path):
    """A laboratory in which "late" is best on seed 0, and "salt" on the others."""
    made_lab.write_all(tmp_path)
    for seed in made_lab.SEEDS:
        losses = (4.0, 3.5, 3.25, 3.0) if seed == 0 else (5.0, 4.625, 4.25, 4.0)
        path = tmp_path / "late" / f"seed-{seed}" / "run" / "metrics.jsonl"
        lines = [
            {"step": step, "flops": 12.0 * step, "val_loss": loss + 0.125 * seed}
            for step, loss in zip(made_lab.STEPS, losses, strict=True)
        ]
        write_lines(path, lines)
    return tmp_path


def told(root, **lab):
    read = Laboratory.read(made_lab.write_lab(root, **lab))
    found = results(read)
    return answer.title(read, found), list(answer.findings(read, found))


def test_an_arm_is_chosen_on_some_seeds_and_told_on_the_fresh_ones(root):
    title, said = told(root, chosen_on=(0,))
    assert "late reaches baseline's final loss at 100 \u00b1 0 % of its steps" in title
    assert "2 fresh seeds" in said[0]
    assert "chosen on seed 0" in said[-1] and "fresh seeds 1 and 2" in said[-1]


def test_without_fresh_seeds_the_first_arm_is_said_to_be_flattered(root):
    title, said = told(root)
    assert "salt reaches baseline's final loss at 62 \u00b1 0 % of its steps" in title
    assert "flatters it" in said[-1]


def test_arms_that_never_pass_are_told_by_their_loss(tmp_path):
    made_lab.write_all(tmp_path)
    title, said = told(tmp_path, arms=("baseline", "late"))
    assert title == "made: no arm reaches baseline's final loss in every seed"
    assert "+0.125 \u00b1 0.000 nats per token from baseline's" in said[0]
    assert "0 of 3 seeds reach it" in said[0]
    assert "No arm reaches baseline's final loss at 70 %" in said[1]


def test_an_arm_that_no_number_of_students_pays_for_is_told_so(root):
    _, said = told(root, arms=("baseline", "late"), chosen_on=(0,))
    assert "It never pays, however many students share them." in said[0]


def test_a_seed_that_never_passes_is_not_averaged_away(root):
    path = root / "late" / "seed-2" / "run" / "metrics.jsonl"
    line = {"step": 100, "flops": 1200.0, "val_loss": 9.0}
    write_lines(path, [line])
    _, said = told(root, arms=("baseline", "late"))
    assert "2 of 3 seeds reach it" in said[0]
    read = Laboratory.read(root / "reports" / "made")
    (late,) = results(read)
    assert (late.all_seeds.passed, late.all_seeds.shares["steps"]) == (2, None)
    assert late.all_seeds.pays_from["flops"] is None

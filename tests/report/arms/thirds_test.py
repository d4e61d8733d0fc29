import pytest

from salt_jax.files.records import write_record
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import results
from salt_jax.report.arms.thirds import difficulty_tables
from tests.report.arms import made_lab

ARMS = ("baseline", "salt")


def write_losses(root, name, seed, losses):
    path = root / name / f"seed-{seed}" / "run" / "sequence_losses.json"
    write_record(path, {"step": 100, "splits": {"test": losses}})


@pytest.fixture
def lab(tmp_path):
    """A laboratory of one seed, whose small model finds every second text hard."""
    for name in (*ARMS, "slm"):
        made_lab.write_run(tmp_path, name, 0)
    write_losses(tmp_path, "slm", 0, [1.0, 9.0, 2.0, 8.0, 5.0, 4.0])
    write_losses(tmp_path, "baseline", 0, [3.0] * 6)
    write_losses(tmp_path, "salt", 0, [1.0, 2.5, 2.0, 3.5, 3.25, 3.0])
    return tmp_path


def tables(root):
    folder = made_lab.write_lab(root, arms=ARMS, seeds=(0,))
    read = Laboratory.read(folder)
    return list(difficulty_tables(read, results(read)))


def test_thirds_are_those_of_the_small_models_loss(lab):
    (table,) = tables(lab)
    # Easy: texts 0 and 2; medium: 5 and 4; hard: 3 and 1.
    assert table.rows == [["salt", "worse", "1", "-1.500", "+0.125", "+0.000"]]


def test_without_an_evaluated_small_model_there_are_no_thirds(lab):
    (lab / "slm" / "seed-0" / "run" / "sequence_losses.json").unlink()
    assert tables(lab) == []


def test_an_arm_that_was_not_evaluated_has_no_row(lab):
    (lab / "salt" / "seed-0" / "run" / "sequence_losses.json").unlink()
    assert tables(lab) == []


def test_losses_of_other_texts_are_refused(lab):
    write_losses(lab, "salt", 0, [1.0] * 5)
    with pytest.raises(ValueError, match=r"\[5, 6\]"):
        tables(lab)

import dataclasses

import numpy as np
import pytest

from salt_jax.symptoms.history import Curve
from salt_jax.symptoms.lookout import FIELD, Lookout
from salt_jax.symptoms.selections import starved_domain
from salt_jax.symptoms.watch import Watch
from tests.symptoms.made_records import STAGES, blended, good_run


def warnings(records, watch=Watch(), stages=STAGES, baseline=None):
    """Returns what is warned of, by kind, with the steps of the records."""
    lookout = Lookout(watch, stages, baseline=baseline)
    found = {}
    for record in records:
        for field, line in lookout.see(record).items():
            kind = field.removeprefix(FIELD)
            found.setdefault(kind, []).append((record["step"], line))
    return found


def changed(records, change, *, stage="distill"):
    """Returns records with the training records of a stage changed."""
    new = []
    for record in records:
        if record.get("stage") == stage:
            record = blended(record | change(record))
        new.append(record)
    return new


BASELINE = Curve(steps=[20, 400], losses=[7.0, 3.3])


def test_a_good_run_is_not_warned_of():
    for seed in range(20):
        assert warnings(good_run(seed=seed), baseline=BASELINE) == {}


def test_a_teacher_that_the_student_has_reached_is_no_better():
    found = warnings(good_run(val_teacher_loss=4.0))
    # The student is at 3.96 after 100 steps, and at 4.25 after 80.
    assert [*found] == ["weak_teacher"]
    ((step, line),) = found["weak_teacher"]
    assert (step, "4.0000" in line) == (100, True)
    ahead = Watch(teacher_lead=0.2)
    assert warnings(good_run(val_teacher_loss=4.1), ahead)["weak_teacher"][0][0] == 80


def test_a_kl_that_stays_is_flat_once_the_stage_has_settled():
    flat = changed(good_run(), lambda r: {"kl": 3.0, "kd": 3.0 + r["teacher_ce"]})
    ((step, line),) = warnings(flat)["flat_kl"]
    assert (step, line.count("3.000")) == (30, 2)
    later = warnings(flat, Watch(settled=0.5))["flat_kl"]
    assert later[0][0] == 100
    near = changed(good_run(), lambda r: {"kl": 0.4, "kd": 0.4 + r["teacher_ce"]})
    assert warnings(near) == {}


@pytest.mark.parametrize("size, jumps", [(0.04, False), (0.6, True)])
def test_a_jump_is_more_than_the_noise_before_it(size, jumps):
    up = changed(good_run(), lambda r: {"ce": r["ce"] + size}, stage="standard")
    found = warnings(up)
    assert ("loss_jump" in found) == jumps
    if jumps:
        ((step, line),) = found["loss_jump"]
        assert step <= 215 and line.startswith("ce jumps")


def test_another_text_after_the_transition_is_no_jump_but_held_out_loss_is():
    other = (STAGES[0], dataclasses.replace(STAGES[1], data="selected"))
    up = changed(good_run(), lambda r: {"ce": r["ce"] + 2.0}, stage="standard")
    assert warnings(up, stages=other) == {}
    after = lambda r: 0.5 if r["step"] > 200 and "val_loss" in r else 0.0
    held_out = [r | ({"val_loss": r["val_loss"] + after(r)} if after(r) else {})
                for r in up]  # fmt: skip
    found = warnings(held_out, stages=other)
    assert found["loss_jump"][0][1].startswith("val_loss jumps")


def test_no_progress_after_the_transition_is_a_plateau():
    stuck = [
        r | {"val_loss": 3.36} if r["step"] > 200 and "val_loss" in r else r
        for r in good_run()
    ]
    ((step, line),) = warnings(stuck)["plateau"]
    assert (step, "3.3427" in line) == (280, True)  # The fourth validation.


def test_a_student_behind_baseline_twice_in_a_row_is_said_to_be():
    curve = lambda lead: Curve(
        steps=list(range(20, 401, 20)),
        losses=[3.2 + 4.0 * np.exp(-s / 60) - lead for s in range(20, 401, 20)],
    )
    found = warnings(good_run(), baseline=curve(0.2))
    assert [step for step, _ in found["behind_baseline"]] == [40, 240]  # Once a stage.
    assert warnings(good_run(), baseline=curve(0.05)) == {}
    assert warnings(good_run(), baseline=Curve(steps=[], losses=[])) == {}


def test_a_student_behind_baseline_once_is_not_unless_patience_is_1():
    steps = range(20, 401, 20)
    losses = [3.2 + 4.0 * np.exp(-s / 60) - 0.2 * (s % 40 == 20) for s in steps]
    curve = Curve(steps=[*steps], losses=losses)  # Ahead at every other validation.
    assert warnings(good_run(), baseline=curve) == {}
    found = warnings(good_run(), Watch(patience=1), baseline=curve)
    assert [step for step, _ in found["behind_baseline"]] == [20, 220]


@pytest.mark.parametrize("sign, word", [(1, "harder"), (-1, "easier")])
def test_text_that_becomes_harder_or_easier_drifts(sign, word):
    drift = lambda r: {"teacher_ce": r["teacher_ce"] + sign * r["step"] / 200}
    ((_, line),) = warnings(changed(good_run(), drift))["difficulty_drift"]
    assert word in line


@pytest.mark.parametrize("weight, term", [(0.99, "cross-entropy"), (0.02, "kd")])
def test_a_weight_that_leaves_a_term_no_share_swamps_it(weight, term):
    (found,) = warnings(changed(good_run(), lambda r: {"kd_weight": weight})).items()
    kind, ((step, line),) = found
    assert (kind, step) == ("swamped_term", 30)
    assert f"swamps the {term} term" in line


@pytest.mark.parametrize("weight", [lambda step: 1.0, lambda step: 1 - step / 200])
def test_one_term_alone_and_a_schedule_to_0_are_as_asked_for(weight):
    asked = changed(good_run(), lambda r: {"kd_weight": weight(r["step"])})
    assert warnings(asked) == {}


def test_a_weight_that_changes_is_judged_once_half_of_its_stage_is_made():
    rises = lambda to: lambda r: {"kd_weight": to * r["step"] / 200}
    # At step 30 kd has had less than 5 % of the loss in both.
    assert warnings(changed(good_run(), rises(0.3))) == {}
    ((step, line),) = warnings(changed(good_run(), rises(0.1)))["swamped_term"]
    assert (step, "swamps the kd term" in line) == (100, True)


@pytest.mark.parametrize("ratio, word", [(0.4, "hard"), (1.6, "uniform")])
def test_a_temperature_that_makes_labels_hard_or_uniform_is_found(ratio, word):
    kd = lambda r: {"kd": ratio * (r["teacher_ce"] + r["kl"])}
    ((_, line),) = warnings(changed(good_run(), kd))["swamped_term"]
    assert word in line and f"{ratio:.2f}" in line


def test_a_domain_is_starved_if_it_keeps_little_of_its_share():
    counts = {"Code": (100, 30), "Law": (100, 1), "Rare": (1, 0)}
    line = starved_domain(counts, Watch())
    assert "1 domains" in line and "Law 49.8%" in line
    assert starved_domain(counts, Watch(domain_share=0.01)) is None
    assert starved_domain({"Code": (100, 10), "Law": (50, 4)}, Watch()) is None


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"patience": 0}, "patience must be positive"),
        ({"settled": 1.5}, r"settled must be in \[0, 1\)"),
        ({"noises": -1.0}, "noises must not be negative"),
        ({"most_softening": 0.9}, "between least_sharpening and most_softening"),
        ({"also": (3,)}, "look"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Watch(**wrong)

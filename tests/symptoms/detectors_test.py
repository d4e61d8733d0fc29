import dataclasses

import numpy as np
import pytest

from salt_jax.symptoms.history import Curve, Span
from salt_jax.symptoms.lookout import FIELD, Lookout
from salt_jax.symptoms.selections import starved_domain
from salt_jax.symptoms.watch import Watch

STAGES = (
    Span(name="distill", begin_step=0, end_step=200, data="all"),
    Span(name="standard", begin_step=200, end_step=400, data="all"),
)


def good_run(*, seed=0, val_teacher_loss=3.0, until=400):
    """Records of a run that goes as it should, every 5 steps, with noise."""
    draw = np.random.default_rng(seed)
    records = []
    for step in range(5, until + 1, 5):
        taught = step <= 200
        ce = 3.2 + 4.0 * np.exp(-step / 60) + 0.05 * draw.normal()
        record = {"step": step, "loss": ce, "ce": ce}
        record["stage"] = "distill" if taught else "standard"
        if taught:
            kl = 0.2 + 3.0 * np.exp(-step / 25)
            record |= {"kl": kl, "kd": 3.0 + kl, "teacher_ce": 3.0, "kd_weight": 0.667}
            record["teacher_ce"] += 0.05 * draw.normal()
        records.append(blended(record))
        if step % 20 == 0:
            val = {"step": step, "val_loss": 3.2 + 4.0 * np.exp(-step / 60)}
            teacher = {"val_teacher_loss": val_teacher_loss} if taught else {}
            records.append(val | teacher)
    return records


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


def blended(record):
    weight = record.get("kd_weight", 0.0)
    kd = weight * record.get("kd", 0.0)
    return record | {"loss": (1.0 - weight) * record["ce"] + kd}


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


def test_what_was_warned_of_is_not_again_after_a_resume(caplog):
    records = good_run(val_teacher_loss=4.0)
    lookout, kept = Lookout(Watch(), STAGES), []
    for record in records[:60]:
        kept.append(record | lookout.see(record))
    assert len(caplog.messages) == 1
    resumed = Lookout(Watch(), STAGES, records=kept)
    assert [x for r in records[60:] for x in resumed.see(r)] == []
    # Resumed from before the warning, it is found at the same record.
    place = next(i for i, r in enumerate(kept) if any(FIELD in name for name in r))
    again = Lookout(Watch(), STAGES, records=kept[:place])
    assert again.see(records[place]) == {
        name: line for name, line in kept[place].items() if FIELD in name
    }


def test_a_long_history_is_looked_at_more_rarely():
    looks = []

    @dataclasses.dataclass(frozen=True)
    class Counting:
        name: str = "counting"

        def look(self, history):
            looks.append(history.step)

    lookout = Lookout(Watch(also=(Counting(),)), STAGES[:1])
    for step in range(1, 3001):
        lookout.see({"step": step, "stage": "distill", "loss": 1.0})
    assert looks[:100] == list(range(1, 101))
    assert 100 < len(looks) < 400 and looks[-1] > 2900


def test_a_users_detector_is_asked_too(caplog):
    @dataclasses.dataclass(frozen=True)
    class Explodes:
        name: str = "explodes"

        def look(self, history):
            norms = history.series("grad_norm")
            return "it explodes" if len(norms) and norms.values[-1] > 9 else None

    lookout = Lookout(Watch(also=(Explodes(),)), STAGES)
    record = {"step": 5, "stage": "distill", "loss": 1.0, "grad_norm": 10.0}
    assert lookout.see(record) == {"warning_explodes": "it explodes"}
    assert "Stage 'distill', step 5: it explodes" in caplog.text


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

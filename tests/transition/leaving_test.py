"""Leave rules and measured weights, as functions of what was measured."""

import pytest

from salt_jax.transition.leaving import AtEnd, WhenGainStalls, WhenStudentReaches


def history(*leads, teacher=4.0, every=10):
    """Validations every ten steps, of which each has the teacher's lead."""
    return [
        {"step": every * i, "val_loss": teacher + x, "val_teacher_loss": teacher}
        for i, x in enumerate(leads, 1)
    ]


def kls(*values):
    return [{"step": 10 * i, "val_kl": x} for i, x in enumerate(values, 1)]


def left_at(rule, whole):
    """Returns the step at which a rule ends the stage; None if it does not."""
    for count in range(1, len(whole) + 1):
        if rule.reason(whole[:count]) is not None:
            return whole[count - 1]["step"]
    return None


def test_a_stage_without_a_rule_is_never_left():
    assert AtEnd().reads == ()
    assert left_at(AtEnd(), history(-1.0, -2.0)) is None


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        (WhenStudentReaches(), 30),
        (WhenStudentReaches(margin=0.25), 20),
        (WhenStudentReaches(margin=-0.5), None),
        (WhenStudentReaches(patience=2), 60),
        (WhenStudentReaches(not_before=31), 50),
        (WhenStudentReaches(patience=2, not_before=61), None),
    ],
)
def test_a_stage_is_left_once_the_student_has_reached_the_teacher(rule, step):
    assert left_at(rule, history(0.5, 0.25, 0.0, 0.125, -0.25, -0.125)) == step


def test_the_reason_is_the_largest_lead_of_the_validations_that_counted():
    rule = WhenStudentReaches(margin=0.25, patience=2)
    found = rule.reason(history(9.0, 0.25, -0.5))
    assert found == {"lead": 0.25, "margin": 0.25}


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        (WhenGainStalls(least=0.25), 30),
        (WhenGainStalls(least=0.25, patience=2), 40),
        (WhenGainStalls(least=0.1), 40),
        (WhenGainStalls(least=0.25, not_before=35), 40),
        (WhenGainStalls(least=-0.1), None),
    ],
)
def test_a_stage_is_left_once_kl_falls_by_too_little(rule, step):
    assert left_at(rule, kls(2.0, 1.0, 0.8, 0.8)) == step


def test_a_stage_is_left_once_both_gradients_disagree():
    found = [{"step": i, "val_gradient_agreement": x} for i, x in ((1, 0.9), (2, 0.2))]
    rule = WhenGainStalls(on="gradient_agreement", least=0.25)
    assert left_at(rule, found) == 2
    assert rule.reason(found) == {"gain": 0.2, "least": 0.25}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WhenStudentReaches(margin=float("nan")), "margin.*nan"),
        (lambda: WhenStudentReaches(patience=0), "patience.*0"),
        (lambda: WhenGainStalls(least=0.1, not_before=-1), "not_before.*-1"),
        (lambda: WhenGainStalls(least=0.1, on="loss"), "loss.*kl, gradient_agreement"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

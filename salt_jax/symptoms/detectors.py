"""The warnings: each is a pure function of the records so far.

A detector returns one line that says what was found, with the numbers behind it, or
None. What to do about it is in docs/warnings.md, by the detector's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from salt_jax.symptoms.history import History, Series
from salt_jax.symptoms.watch import Watch

_FEWEST = 6  # Records of a stage before its trend is judged: two in each third.
# Records before a transition that show the noise: the fewest, and the most.
_BEFORE = {"ce": (12, 24), "val_loss": (4, 8)}
_AFTER = 3  # Records after it in which a jump is looked for.


def weak_teacher(history: History, watch: Watch) -> str | None:
    """Finds a teacher that is no better than its student on held-out text."""
    teacher, student = history.series("val_teacher_loss"), history.series("val_loss")
    if len(without_padding := history.series("val_loss_real")):
        student = without_padding  # As the teacher's.
    if not len(teacher) or not len(student) or student.steps[-1] != history.step:
        return None
    ours, theirs = student.values[-1], teacher.values[-1]
    if theirs < ours - watch.teacher_lead:
        return None
    return (
        f"the teacher is no better than the student on held-out text: its loss is "
        f"{theirs:.4f}, the student's {ours:.4f}"
    )


def flat_kl(history: History, watch: Watch) -> str | None:
    """Finds a KL that does not fall from the first to the last third of its records."""
    kl = history.series("kl")
    if history.stage.begin_step or not _is_settled(history, kl, watch):
        return None
    first, last = (float(np.mean(third)) for third in kl.thirds())
    if last < (1.0 - watch.kl_fall) * first or last < watch.kl_near:
        return None
    return f"KL from the teacher does not fall: {first:.3f} at first, {last:.3f} now"


def loss_jump(history: History, watch: Watch) -> str | None:
    """Finds a loss that is higher after a transition than the noise before explains.

    The training cross-entropy is compared if both stages read the same text, and the
    held-out loss in any case. Neither contains the soft labels.
    """
    if not history.index:
        return None
    names = ["val_loss"]
    if history.stages[history.index - 1].data == history.stage.data:
        names.append("ce")
    for name in names:
        before, after = history.series(name, back=1), history.series(name)
        fewest, most = _BEFORE[name]
        if len(before) < fewest or not 0 < len(after) <= _AFTER:
            continue
        before = Series(before.steps[-most:], before.values[-most:])
        # A curve that falls is lowest at its end. Held-out text is the same each time,
        # so that its last value says most; training text is not.
        last = before.values[-1:] if name == "val_loss" else before.values[-4:]
        error = before.noise() * np.sqrt(1.0 / len(last) + 1.0 / len(after))
        then, now = float(np.mean(last)), float(np.mean(after.values))
        if now - then > max(watch.jump, watch.noises * error):
            return (
                f"{name} jumps at the transition: from {then:.4f} to {now:.4f}, "
                f"{(now - then) / max(error, 1e-9):.1f} standard errors of the noise "
                "before it"
            )
    return None


def plateau(history: History, watch: Watch) -> str | None:
    """Finds held-out loss that makes no progress after a transition."""
    if not history.index:
        return None
    before, after = history.series("val_loss", back=1), history.series("val_loss")
    if not len(before) or len(after) < watch.plateau:
        return None
    then, best = float(before.values[-1]), float(np.min(after.values))
    if best < then:
        return None
    return (
        f"no progress since the transition: val_loss was {then:.4f}, and the best of "
        f"{len(after)} validations since is {best:.4f}"
    )


def behind_baseline(history: History, watch: Watch) -> str | None:
    """Finds a held-out loss that stays above BASELINE's at equal steps."""
    losses = history.series("val_loss")
    if history.baseline is None or len(losses) < watch.patience:
        return None
    lags = []
    for step, loss in list(zip(losses.steps, losses.values, strict=True))[
        -watch.patience :
    ]:
        at = history.baseline.at(int(step))
        lags.append(-np.inf if at is None else loss - at)
    if min(lags) <= watch.baseline_lag:
        return None
    return (
        f"the student is behind BASELINE: val_loss is {lags[-1]:.4f} above its curve, "
        f"and more than {watch.baseline_lag:g} at {watch.patience} validations in a row"
    )


def difficulty_drift(history: History, watch: Watch) -> str | None:
    """Finds text that becomes harder or easier for the frozen teacher as it is read.

    Shuffled text does not; the teacher's loss on it depends on the text alone.
    """
    losses = history.series("teacher_ce")
    if len(losses) < 2 * _FEWEST:
        return None
    first, last = losses.thirds()
    drift = float(np.mean(last) - np.mean(first))
    error = losses.noise() * np.sqrt(2.0 / len(first))
    if abs(drift) <= max(watch.drift, watch.noises * error):
        return None
    kind = "harder" if drift > 0 else "easier"
    return (
        f"the text becomes {kind}: the teacher's loss on what is read went from "
        f"{np.mean(first):.3f} to {np.mean(last):.3f}, {abs(drift) / error:.1f} "
        "standard errors"
    )


def swamped_term(history: History, watch: Watch) -> str | None:
    """Finds a weight or a temperature that leaves one term of the loss without a say.

    By the sizes of the terms: both are cross-entropies of one student on one batch,
    in nats, so their shares of the loss are what the optimizer is paid for. Sizes of
    gradients would need a second backward pass at every step.
    """
    kd = history.series("kd")
    if not _is_settled(history, kd, watch):
        return None
    return _swamped_by_weight(history, watch) or _swamped_by_temperature(history, watch)


def _swamped_by_weight(history: History, watch: Watch) -> str | None:
    kd, loss, weight = map(history.series, ("kd", "loss", "kd_weight"))
    constant = weight.values.min() == weight.values.max()
    # A schedule may begin or end at 0: it is judged once half of the stage is made.
    if len(weight) != len(kd) or not (constant or history.progress() >= 0.5):
        return None
    share = float(np.mean(weight.values * kd.values / loss.values[-len(kd) :]))
    mean = float(np.mean(weight.values))
    if not 0.0 < mean < 1.0:
        return None  # One term alone, as asked for.
    if watch.least_share <= share <= 1.0 - watch.least_share:
        return None
    term, other = ("cross-entropy", "kd") if share > 0.5 else ("kd", "cross-entropy")
    return (
        f"the {other} term swamps the {term} term, which is "
        f"{min(share, 1.0 - share):.1%} of the loss (kd_weight {mean:.3g} on average)"
    )


def _swamped_by_temperature(history: History, watch: Watch) -> str | None:
    kd, kl, theirs = map(history.series, ("kd", "kl", "teacher_ce"))
    if not len(kd) == len(kl) == len(theirs):
        return None
    # A calibrated teacher's entropy is its cross-entropy: this is kd at temperature 1.
    ratio = float(np.mean(kd.thirds()[1] / (theirs.thirds()[1] + kl.thirds()[1])))
    if watch.least_sharpening <= ratio <= watch.most_softening:
        return None
    how = "nearly uniform" if ratio > 1.0 else "nearly hard"
    return (
        f"the temperature makes the soft labels {how}: the kd term is {ratio:.2f} "
        "times what it would be at temperature 1"
    )


def _is_settled(history: History, series: Series, watch: Watch) -> bool:
    """Returns whether a stage has enough records for its trend to be judged."""
    return len(series) >= _FEWEST and history.progress() >= watch.settled


DETECTORS: Mapping[str, Callable[[History, Watch], str | None]] = {
    function.__name__: function
    for function in (
        weak_teacher,
        flat_kl,
        loss_jump,
        plateau,
        behind_baseline,
        difficulty_drift,
        swamped_term,
    )
}

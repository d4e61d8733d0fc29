import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.optim.guard import UpdateGuard

NAN = float("nan")


def judged(guard, losses, norms=None, *, begin_step=0, state=None):
    """Which of some updates are kept, and the guard's state after them."""
    norms = [1.0] * len(losses) if norms is None else norms
    state, kept = guard.init() if state is None else state, []
    judge = jax.jit(lambda *args: guard.judge(*args, begin_step=begin_step))
    for loss, norm in zip(losses, norms, strict=True):
        keep, state = judge(state, jnp.float32(loss), jnp.float32(norm))
        kept.append(bool(keep))
    return kept, state


def test_what_is_not_finite_is_dropped_without_any_bound():
    kept, state = judged(
        UpdateGuard(), [1.0, NAN, np.inf, 1e30, 1.0], [1.0, 1.0, 1.0, 1.0, NAN]
    )
    assert kept == [True, False, False, True, False]
    assert int(state.dropped) == 3


def test_a_loss_or_a_norm_above_its_bound_is_dropped():
    guard = UpdateGuard(max_loss=3.0, max_grad_norm=2.0)
    kept, _ = judged(guard, [3.0, 3.1, 1.0, 1.0], [2.0, 1.0, 2.0, 2.1])
    assert kept == [True, False, True, False]


def test_a_dropped_update_leaves_the_window_as_it_was():
    _, before = judged(UpdateGuard(window=4), [2.0, 3.0])
    _, after = judged(UpdateGuard(window=4), [2.0, NAN, NAN, 3.0])
    assert int(after.kept) == 2
    for name in ("losses_W", "grad_norms_W"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_dropped_updates_in_a_row_are_counted_until_one_is_kept():
    kept, state = judged(UpdateGuard(), [NAN, 1.0, NAN, NAN])
    assert kept == [False, True, False, False]
    assert (int(state.dropped), int(state.dropped_in_a_row)) == (3, 2)


def test_a_spike_is_what_exceeds_the_deviations_of_the_window():
    losses = [2.0, 2.2, 1.8, 2.1, 1.9, 2.0]
    guard = UpdateGuard(sigmas=3.0, window=6)
    usual = np.mean(losses) + 3.0 * np.std(losses, ddof=1)
    for loss, expected in ((usual - 1e-3, True), (usual + 1e-3, False)):
        assert judged(guard, [*losses, loss])[0] == [True] * 6 + [expected]
    by_norm = judged(guard, [2.0] * 7, [*losses, usual + 1e-3])[0]
    assert by_norm == [True] * 6 + [False]


def test_the_window_follows_the_run_and_a_spike_does_not_enter_it():
    guard = UpdateGuard(sigmas=3.0, window=4)
    falling = [9.0, 8.9, 8.8, 8.7, 5.0, 4.9, 4.8, 4.7]
    kept, state = judged(guard, [*falling, 8.0])
    assert kept == [True] * 8 + [False]
    np.testing.assert_allclose(state.losses_W, falling[4:])


def test_deviations_are_judged_once_half_a_window_is_kept():
    guard = UpdateGuard(sigmas=3.0, window=8)
    assert judged(guard, [1.0, 1.1, 0.9, 50.0])[0] == [True] * 4
    assert judged(guard, [1.0, 1.1, 0.9, 1.0, 50.0])[0] == [True] * 4 + [False]


def test_a_stage_begins_its_own_window():
    guard = UpdateGuard(sigmas=3.0, window=4)
    state = judged(guard, [1.0, 1.1, 0.9, 1.0, NAN])[1]
    kept, state = judged(guard, [50.0, 51.0], begin_step=5, state=state)
    assert kept == [True, True]
    assert (int(state.kept), int(state.dropped)) == (2, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_loss", 0.0),
        ("max_grad_norm", -1.0),
        ("sigmas", NAN),
        ("window", 3),
        ("max_in_a_row", 0),
    ],
)
def test_an_impossible_guard_is_refused(name, value):
    with pytest.raises(ValueError, match=re.escape(f"UpdateGuard.{name}")):
        UpdateGuard(**{name: value})

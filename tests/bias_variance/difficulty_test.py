"""Shares and losses of the targets at which a teacher is wrong and confident."""

import numpy as np
import pytest

from salt_jax.bias_variance.difficulty import Rows, by_difficulty

# Rows of mean loss 6, 1 and 3; the last target of each is padding.
CE = np.array([[8.0, 4.0, 99.0], [1.0, 1.0, 99.0], [5.0, 1.0, 99.0]])
WRONG = Rows(
    ce_NL=CE,
    rank_NL=np.array([[7, 1, 5], [0, 0, 5], [3, 0, 5]]),
    entropy_NL=np.array([[0.5, 2.0, 0.1], [0.1, 0.1, 0.1], [0.9, 0.2, 0.1]]),
    weights_NL=np.array([[1.0, 1.0, 0.0]] * 3),
)


def test_thirds_are_of_the_rows_by_their_mean_loss():
    thirds = WRONG.thirds()
    assert [np.flatnonzero(x).tolist() for x in thirds] == [[1], [2], [0]]


def test_targets_are_counted_where_they_count():
    student = CE / 2
    easy, middle, hard, every = by_difficulty(WRONG, {"s": student}, 1.0)
    assert [x["wrong"] for x in (easy, middle, hard)] == [0.0, 0.5, 1.0]
    assert [x["wrong_and_confident"] for x in (easy, middle, hard)] == [0.0, 0.5, 0.5]
    assert [x["teacher_loss"] for x in (easy, middle, hard)] == [1.0, 3.0, 6.0]
    assert (easy["teacher_loss_there"], easy["share_of_teacher_loss"]) == (None, 0.0)
    assert hard["teacher_loss_there"] == 8.0
    assert hard["students"]["s"] == {"loss": 3.0, "loss_there": 4.0}
    assert every["targets"] == 6
    assert every["wrong_and_confident"] == pytest.approx(2 / 6)
    assert every["share_of_teacher_loss"] == pytest.approx(13 / 20)


def test_a_higher_entropy_counts_as_confident_if_asked():
    *_, every = by_difficulty(WRONG, {}, 3.0)
    assert every["wrong_and_confident"] == pytest.approx(3 / 6)

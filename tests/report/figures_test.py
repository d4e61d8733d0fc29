import dataclasses
import json

import numpy as np
import pytest

from salt_jax.report import figures
from salt_jax.report.curves import LossCurve, passing_point

STEPS, FLOPS = figures.SPENT["steps"], figures.SPENT["flops"]


def curve(*losses, flops_each):
    steps = 100.0 * np.arange(1, len(losses) + 1)
    losses = np.array(losses, float)
    return LossCurve(
        steps=steps, flops=flops_each * steps, seconds=3 * steps, losses=losses
    )


@pytest.fixture
def runs():
    curves = {
        "BASELINE": curve(5.0, 4.0, 3.5, 3.0, flops_each=1e10),
        "SALT": curve(4.5, 3.5, 2.5, 2.0, flops_each=2e10),
    }
    training = curve(6.0, 5.0, 4.0, flops_each=1e10)
    return figures.Runs(
        curves=curves,
        training={"BASELINE": training, "SALT": training},
        passing=passing_point(curves["SALT"], curves["BASELINE"]),
        transition=150,
    )


def lines(figure, color):
    """Returns the points of the lines of one color."""
    found = [x for x in figure.axes[0].lines if x.get_color() == color]
    return [np.asarray(line.get_xydata()).tolist() for line in found]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_curve_is_named_with_its_final_loss(runs):
    assert {"BASELINE 3.000", "SALT 2.000"} <= set(
        texts(figures.loss_figure(runs, STEPS))
    )


def test_the_passing_is_marked_where_it_is_and_said_in_words(runs):
    figure = figures.loss_figure(runs, STEPS)
    rings = [line for line in figure.axes[0].lines if line.get_mfc() == "none"]
    assert [ring.get_xydata().tolist() for ring in rings] == [[[250.0, 3.0]]]
    assert "SALT has BASELINE's final loss\nat 62% of its steps" in texts(figure)


def test_no_passing_is_marked_where_there_is_none(runs):
    figure = figures.loss_figure(dataclasses.replace(runs, passing=None), STEPS)
    assert not any("has BASELINE's" in text for text in texts(figure))


def test_the_transition_is_drawn_at_what_salt_had_spent_by_then(runs):
    ((begin, end),) = lines(figures.loss_figure(runs, FLOPS), figures.FAINT)
    assert (begin, end) == ([3.0, 0.0], [3.0, 1.0])  # 150 steps of 2e10, in 1e12.


def test_the_bill_moves_the_curve_to_the_right_and_the_axis_holds_it(runs):
    figure = figures.loss_figure(runs, FLOPS, bill=3e12)
    _, plain, billed = lines(figure, figures.COLORS["SALT"])
    assert [x + 3.0 for x, _ in plain] == [x for x, _ in billed]
    assert figure.axes[0].get_xlim()[1] > billed[-1][0]
    assert any("bill" in text for text in texts(figure))


def test_the_axis_of_time_is_that_of_measured_step_times(runs):
    figure = figures.loss_figure(runs, figures.SPENT["seconds"])
    _, plain = lines(figure, figures.COLORS["SALT"])
    assert [x for x, _ in plain] == [300.0, 600.0, 900.0, 1200.0]
    assert "measured step time" in figure.axes[0].get_xlabel()


def test_the_numbers_behind_a_figure_are_those_drawn(runs):
    said = json.loads(json.dumps(runs.describe()))
    assert said["held_out"]["SALT"]["losses"] == [4.5, 3.5, 2.5, 2.0]
    assert said["training"]["BASELINE"]["steps"] == [100.0, 200.0, 300.0]
    assert said["passing"]["share_of_steps"] == 0.625
    assert said["transition_step"] == 150


@pytest.mark.parametrize(
    ("largest", "unit"), [(900.0, 1.0), (5e5, 1.0), (2e6, 1e6), (9.9e14, 1e12)]
)
def test_large_numbers_are_shown_in_thousands_of_thousands(largest, unit):
    assert FLOPS.scaled_to(largest).unit == unit


def test_the_kl_is_drawn_for_the_steps_that_had_a_teacher_and_its_end_named():
    records = [{"step": step, "kl": 40.0 / step} for step in (10, 20, 40)]
    figure = figures.kl_figure([*records, {"step": 80, "ce": 2.0}])
    raw, _ = lines(figure, figures.COLORS["SALT"])
    assert raw == [[10.0, 4.0], [20.0, 2.0], [40.0, 1.0]]
    assert texts(figure) == ["1.00"]


def test_every_domain_has_a_bar_for_every_model_as_long_as_its_number():
    bits = {
        "BASELINE": {"Github": 1.5, "KJV Bible": 1.0},
        "SALT": {"KJV Bible": 0.9, "Github": 1.4},
    }
    axes = figures.domains_figure(bits).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "KJV Bible",
        "Github",
    ]
    assert [bar.get_width() for bar in axes.patches] == [1.0, 1.5, 0.9, 1.4]

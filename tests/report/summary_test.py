import re

import pytest

from salt_jax.report import sections, summary
from salt_jax.report.comparison import Comparison
from salt_jax.report.write import write_report
from tests.compared_runs import rows, worse_salt, write_step_times


def equal(comparison):
    """Returns the columns of the table at equal steps, FLOPs and step time."""
    _, *columns = zip(*rows(summary.equal_table(comparison)), strict=True)
    return columns


def test_losses_stand_at_equal_steps_flops_and_step_time(runs, tmp_path):
    times = write_step_times(tmp_path / "times.json")
    steps, flops, seconds = equal(Comparison.read(**runs, step_times=times))
    # From 4.5 at step 50 to 3.5 at step 100: 4.0 at step 75, after 900 FLOPs.
    assert steps == (
        *("steps", "100", "4.0000", "3.5000", "-0.5000", "-", "75.0%", "-"),
    )
    # SALT spent 600 by step 50 and 1200 by step 100; the SLM and the scores 400.
    assert flops == (
        *("FLOPs", "1.00e+03", "4.0000", "3.8333", "-0.1667"),
        *("4.5000", "90.0%", "130.0%"),
    )
    # BASELINE takes 200 s. SALT takes 40 x 3 s, then 2 s a step: 140 by step 50, 190
    # by step 75. The SLM takes 100 s, and scoring 100 FLOPs at 4 FLOPs a second.
    assert seconds == (
        *("step time", "200 s", "4.0000", "3.9000", "-0.1000"),
        *("unknown", "95.0%", "157.5%"),
    )


def test_a_result_against_salt_is_told_too(runs):
    comparison = Comparison.read(**worse_salt(runs))
    assert summary.title(comparison) == "SALT does not reach BASELINE's final loss"
    end, _ = summary.findings(comparison)
    assert end.endswith("0.2500 nats per token higher.")
    _, flops, _ = equal(comparison)
    assert flops[3:] == ("4.3333", "+0.3333", "4.5000", "never", "never")


def test_the_title_has_the_shares_of_steps_and_flops(runs):
    title = summary.title(Comparison.read(**runs))
    assert re.findall(r"\d+%", title) == ["75%", "90%"]


def test_without_selection_there_is_no_scoring_to_pay(runs):
    comparison = Comparison.read(**runs | {"scores": None})
    assert comparison.bill("flops") == 300.0
    _, flops, _ = equal(comparison)
    assert flops[-1] == "120.0%"
    assert "30.0% of" in list(summary.findings(comparison))[1]


def test_without_measured_step_times_no_time_is_compared(runs, tmp_path):
    comparison = Comparison.read(**runs)
    assert equal(comparison)[2][:2] == ("step time", "not measured")
    text = write_report(tmp_path / "report", **runs).read_text()
    assert "time_steps" in text
    assert not (tmp_path / "report" / "loss_step_time.json").exists()
    # Ten seconds each by their own clocks: no share of time may follow from that.
    cost = rows(sections.bill_table(comparison))[1:]
    assert all(row[3:5] == ["unknown", "unknown"] for row in cost)


def test_the_page_says_how_noisy_the_step_times_were(runs, tmp_path):
    times = write_step_times(tmp_path / "times.json")
    said = summary.noise(Comparison.read(**runs, step_times=times))
    for number in ("30 blocks", "4 steps", "1.50", "1.38 to 1.75", "7%"):
        assert number in said
    # Ten seconds by its own clock, 200 by its step times; SALT 240.
    assert "BASELINE 10 s, 0.05 times the 200 s" in said
    assert "SALT 10 s, 0.04 times the 240 s" in said


def test_a_stage_that_was_not_timed_is_refused(runs, tmp_path):
    times = write_step_times(tmp_path / "times.json", "baseline/standard")
    with pytest.raises(ValueError, match="'distill' of .*salt"):
        summary.equal_table(Comparison.read(**runs, step_times=times))
    with pytest.raises(FileNotFoundError, match="time_steps"):
        Comparison.read(**runs, step_times=tmp_path / "nowhere.json")


def test_without_the_slms_step_time_its_bill_of_time_is_unknown(runs, tmp_path):
    known = ("baseline/standard", "salt/distill")
    times = write_step_times(tmp_path / "times.json", *known)
    *_, seconds = equal(Comparison.read(**runs, step_times=times))
    assert seconds[5:] == ("unknown", "95.0%", "unknown")

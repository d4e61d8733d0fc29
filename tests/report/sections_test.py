import re

from salt_jax.files.bill import Bill
from salt_jax.report import costs, sections
from salt_jax.report.comparison import Comparison
from tests import sealed
from tests.compared_runs import rows, write_step_times


def test_the_bill_has_every_part_and_their_sum(runs, tmp_path):
    times = write_step_times(tmp_path / "times.json")
    comparison = Comparison.read(**runs, step_times=times)
    assert rows(sections.bill_table(comparison))[1:] == [
        ["SALT, training", "1.20e+03", "120.0%", "240", "120.0%", "10"],
        ["SLM, training", "3.00e+02", "30.0%", "100", "50.0%", "10"],
        ["Scoring", "1.00e+02", "10.0%", "25", "12.5%", "4"],
        ["SALT and all it needs", "1.60e+03", "160.0%", "365", "182.5%", "24"],
        ["BASELINE, training", "1.00e+03", "100.0%", "200", "100.0%", "10"],
    ]


def test_each_runs_own_clock_stands_beside_its_step_times(runs, tmp_path):
    times = write_step_times(tmp_path / "times.json")
    comparison = Comparison.read(**runs, step_times=times)
    assert rows(sections.own_clocks_table(comparison))[1:] == [
        ["BASELINE", "100", "200", "10", "0.05", "0"],
        ["SALT", "100", "240", "10", "0.04", "0"],
        ["SLM", "100", "100", "10", "0.10", "0"],
    ]
    assert rows(sections.step_times_table(comparison))[2] == [
        *("salt/distill", "9 s", "2.75 to 3.5", "1.50", "1.38 to 1.75", "7%", "30"),
    ]


def test_the_losses_stand_by_domain_with_their_difference(runs):
    assert rows(sections.held_out_table(Comparison.read(**runs), "test")) == [
        ["Domain", "Tokens", "BASELINE", "SALT", "SLM", "SALT - BASELINE"],
        ["Github", "1,000", "4.0000", "3.5000", "4.5000", "-0.5000"],
        ["KJV Bible", "1,000", "5.0000", "4.5000", "5.5000", "-0.5000"],
        ["All", "1,000", "4.0000", "3.5000", "4.5000", "-0.5000"],
    ]


def test_a_text_is_shown_once_and_then_how_each_model_continues_it(runs):
    html = sections.samples(Comparison.read(**runs))
    assert re.findall(r">([^<>]+)</(?:h3|p|pre)>", html) == [
        "Github",
        "def f(x):",
        "BASELINE:",
        "\n    &lt;i&gt;baseline",
        "SALT:",
        "\n    &lt;i&gt;salt",
        "SLM:",
        "\n    &lt;i&gt;slm",
    ]


def test_settings_are_flattened_and_named_things_go_by_their_names():
    nested = {"seed": 1, "stages": [{"name": "distill", "kd": {"w": 0.5}}], "x": [7]}
    assert list(sections.flat(nested)) == [
        ("seed", "1"),
        ("stages.distill.kd.w", "0.5"),
        ("x.0", "7"),
    ]


def test_settings_that_differ_are_told_apart_from_those_shared(runs):
    path = runs["salt"] / "experiment.json"
    sealed.replace(path, '"end_step": 100', '"end_step": 90')
    differ, shared = sections.settings_tables(Comparison.read(**runs)).split("<details")
    assert ["stages.standard.end_step", "100", "90", "100"] in rows(differ)
    assert ["model", "large", "large", "small"] in rows(differ)
    assert ["seed", "3"] in rows(shared)


def test_each_run_has_its_bill_and_its_warnings(tmp_path):
    bill = Bill(
        devices=8,
        device_kind="TPU v9",
        chip_seconds=12345.0,
        seconds={"steps": 1.0},
        flops={"student": 3 * 10**15, "teacher": 10**15},
        rows=7,
        tokens=112,
        bytes_read=10**9,
    )
    bill.write(tmp_path)
    table = costs.bills_table({"SALT": str(tmp_path), "OLD": str(tmp_path / "no")})
    (_, salt, old) = rows(table)
    assert salt[:4] == ["SALT", "8 x TPU v9", "12,345", "3.00e+15"]
    assert old[:2] == ["OLD", "no bill"]
    found = [{"step": 5, "warning_flat_kl": "KL <does> not fall"}, {"step": 6}]
    html = "".join(costs.warnings({"SALT": found, "BASELINE": [{"step": 1}]}))
    assert html.count('class="warning"') == 1
    assert "Step 5: KL &lt;does&gt; not fall (flat_kl)." in html
    assert html.count("None.") == 1

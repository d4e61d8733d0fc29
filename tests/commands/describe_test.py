import json

import pytest

from salt_jax.commands.facts import amount, value_text
from salt_jax.main import main
from salt_jax.telemetry.metric_writer import read_metrics


@pytest.fixture
def described(capsys):
    """Runs the command: returns what it printed, as JSON or in words."""

    def run(*arguments):
        capsys.readouterr()
        assert main(["describe", *arguments]) == 0
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run


def test_an_experiment_is_shown_whole_with_its_overrides(described):
    out = described("--gin_file=gin/tiny_salt_ds.gin", "--gin.N_KD=150")
    rows = [line.split() for line in out.splitlines()]
    assert ["distill", "0", "150", "153,600"] in [row[:4] for row in rows]
    assert ["total", "0", "600", "614,400"] in [row[:4] for row in rows]
    assert ["150", "standard"] in [row[:2] for row in rows]
    for said in (
        "runs/demo/exports/slm",
        "median_k100_zeros",
        "AdamW",
        "runs/demo/data",
    ):
        assert said in out


def test_json_has_the_numbers_that_the_text_is_made_of(described):
    found = described("--gin_file=gin/tiny_salt_ds.gin", "--json")
    assert found["kind"] == "Experiment"
    assert [stage["end_step"] for stage in found["stages"]] == [180, 600]
    assert found["stages"][0]["data"]["selection"]["keep_fraction"] == 0.5
    assert found["validation"]["every"] == 50


@pytest.mark.parametrize(
    "name, said",
    [
        ("tiny_score", ["Scorer", "runs/demo/exports/slm_early", "2,048", "1, 10, 50"]),
        ("score_pile", ["Scorer", "all, of 1,280 tokens"]),
        ("tiny_prepare", ["Preparation", "embedded:minipile"]),
        ("sft_gsm8k", ["Answers", "tfds:gsm8k", "/exports/salt_2p8b"]),
        ("tiny_slm", ["step 150"]),
    ],
)
def test_other_files_are_described_too(name, said, described):
    out = described(f"--gin_file={name}.gin")
    for expected in said:
        assert expected in out


def test_amounts_are_rounded_and_configs_keep_what_is_set():
    assert [amount(n) for n in (999_999, 1_000_000, 2_801_234_567)] == [
        "999,999", "1M", "2.801B"
    ]  # fmt: skip
    config = {"type": "A", "b": None, "c": [1, {"type": "D", "e": 0.5}]}
    assert value_text(config) == "A(c=[1, D(e=0.5)])"


def test_a_run_did_what_was_described(trained, capsys):
    named, workdir = trained
    capsys.readouterr()
    assert main(["describe", named[0], "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    records = [r for r in read_metrics(workdir) if "loss" in r]
    last = records[-1]
    total = {"steps": 6, "tokens": last["tokens"], "flops": last["flops"]}
    assert described["total"] == total
    rates = {r["step"]: r["learning_rate"] for r in records}
    for at in described["schedules"]:
        assert rates[at["step"] + 1] == at["learning_rate"]

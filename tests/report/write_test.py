import base64
import json
import re

import numpy as np
import pytest

from salt_jax.report import sections
from salt_jax.report.runs import Comparison
from salt_jax.report.write import write_report

DOMAINS = ("Github", "KJV Bible")
# FLOPs of the whole runs: BASELINE 1000, SALT 1200, SLM 300, scoring 100.
LOSSES = {"baseline": (5.0, 4.0), "salt": (4.5, 3.5), "slm": (5.0, 4.5)}
FLOPS_A_STEP = {"baseline": 10.0, "salt": 12.0, "slm": 3.0}


def measures(loss):
    return {
        "loss": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_byte": loss / 2,
        "accuracy": 0.25,
        "tokens": 1000,
        "bytes": 3000,
    }


def write_run(workdir, losses, flops_a_step, domains=DOMAINS):
    """Writes a run of 100 steps, validated at 50 and at 100."""
    workdir.mkdir(parents=True)
    records = []
    for step in range(10, 101, 10):
        spent = {"flops": flops_a_step * step, "seconds": step / 10}
        stage = "distill" if workdir.name == "salt" and step <= 40 else "standard"
        record = {"step": step, "stage": stage, "ce": 6.0 - step / 50, **spent}
        records.append(record | ({"kl": 1 / step} if stage == "distill" else {}))
        if step % 50 == 0:
            records.append({"step": step, "val_loss": losses[step // 50 - 1], **spent})
    evaluation = {
        split: {
            "domains": {
                name: measures(losses[-1] + i) for i, name in enumerate(domains)
            },
            "total": measures(losses[-1]),
        }
        for split in ("val", "test")
    }
    files = {
        "evaluation.json": {"params": "latest", "step": 100, "splits": evaluation},
        "experiment.json": {
            "seed": 3,
            "stages": [{"name": "standard", "end_step": 100}],
        },
        "samples.json": [
            {
                "domain": "Github",
                "prompt": "def f(x):",
                "continuation": f"\n    <i>{workdir.name}",
            }
        ],
    }
    for name, content in files.items():
        (workdir / name).write_text(json.dumps(content))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (workdir / "metrics.jsonl").write_text(lines)


def write_bill(path):
    """Writes the bill of two shards, of 40 and of 60 FLOPs."""
    records = [
        {"sequences": 1, "tokens": 16, "flops": flops, "seconds": 2.0}
        | {"shard": shard, "accelerators": 1, "ended_at": 10.0 + 2.0 * shard}
        for shard, flops in enumerate((40.0, 60.0))
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (path / "bill-here.jsonl").write_text(lines)


@pytest.fixture
def runs(tmp_path):
    """Returns the workdirs, as the arguments of `write_report`."""
    for name, losses in LOSSES.items():
        write_run(tmp_path / name, losses, FLOPS_A_STEP[name])
    (tmp_path / "scores").mkdir()
    write_bill(tmp_path / "scores")
    return {name: tmp_path / name for name in (*LOSSES, "scores")}


def worse_salt(runs):
    records = (runs["salt"] / "metrics.jsonl").read_text()
    (runs["salt"] / "metrics.jsonl").write_text(
        records.replace('"val_loss": 3.5', '"val_loss": 4.25')
    )
    return runs


def test_the_result_is_told_with_its_costs(runs):
    # From 4.5 at step 50 to 3.5 at step 100: 4.0 at step 75, after 900 FLOPs.
    comparison = Comparison.read(**runs)
    assert sections.title(comparison) == (
        "SALT reaches BASELINE's final loss at 75% of its steps and 90% of its FLOPs"
    )
    end, passing, equal, _ = sections.findings(comparison)
    assert end.endswith("SALT's is 0.5000 nats per token lower.")
    assert "after 75 steps: 75.0% of BASELINE's steps, 90.0% of its FLOPs" in passing
    assert "(training and scoring) it is 130.0% of BASELINE's FLOPs" in passing
    # SALT spent 600 by step 50 and 1200 by step 100; 1000 - 400 leaves 600.
    assert equal == (
        "With the FLOPs of BASELINE, 1.000e+03: BASELINE 4.0000, SALT 3.8333, "
        "SALT with the SLM's bill added 4.5000."
    )


def test_a_result_against_salt_is_told_too(runs):
    comparison = Comparison.read(**worse_salt(runs))
    assert sections.title(comparison) == "SALT does not reach BASELINE's final loss"
    end, equal, _ = sections.findings(comparison)
    assert end.endswith("SALT's is 0.2500 nats per token higher.")
    assert "BASELINE 4.0000, SALT 4.3333" in equal


def test_without_selection_there_is_no_scoring_to_pay(runs):
    comparison = Comparison.read(**runs | {"scores": None})
    assert comparison.bill("flops") == 300.0
    assert "(its training) it is 120.0%" in sections.findings(comparison)[1]


def rows(html):
    """Returns the text of each table row's cells."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found]


def test_the_bill_has_every_part_and_their_sum(runs):
    assert rows(sections.bill_table(Comparison.read(**runs)))[1:] == [
        ["SLM, training", "3.000e+02", "10", "30.0%"],
        ["Scoring", "1.000e+02", "4", "10.0%"],
        ["SALT, training", "1.200e+03", "10", "120.0%"],
        ["SALT and all it needs", "1.600e+03", "24", "160.0%"],
        ["BASELINE, training", "1.000e+03", "10", "100.0%"],
    ]


def test_the_losses_stand_by_domain_with_their_difference(runs):
    assert rows(sections.held_out_table(Comparison.read(**runs), "test")) == [
        ["Domain", "Tokens", "BASELINE", "SALT", "SLM", "SALT - BASELINE"],
        ["Github", "1,000", "4.0000", "3.5000", "4.5000", "-0.5000"],
        ["KJV Bible", "1,000", "5.0000", "4.5000", "5.5000", "-0.5000"],
        ["All", "1,000", "4.0000", "3.5000", "4.5000", "-0.5000"],
    ]


def test_a_text_is_shown_once_and_then_how_each_model_goes_on(runs):
    html = sections.samples(Comparison.read(**runs))
    assert re.findall(r">([^<>]+)</(?:h3|p|pre)>", html) == [
        "Github",
        "def f(x):",
        "BASELINE goes on:",
        "\n    &lt;i&gt;baseline",
        "SALT goes on:",
        "\n    &lt;i&gt;salt",
        "SLM goes on:",
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
    path.write_text(path.read_text().replace('"end_step": 100', '"end_step": 90'))
    differ, shared = sections.settings_tables(Comparison.read(**runs)).split("<details")
    assert rows(differ)[1:] == [["stages.standard.end_step", "100", "90", "100"]]
    assert rows(shared)[1:] == [["seed", "3"]]


@pytest.mark.parametrize("change", [dict, worse_salt], ids=["passes", "does_not"])
def test_a_report_is_a_page_that_needs_nothing_else_and_its_pictures(
    runs, change, tmp_path
):
    path = write_report(
        tmp_path / "out" / "report", **change(runs), commands=["a && b"]
    )
    html = path.read_text()
    pictures = {picture.stem for picture in path.parent.glob("*.png")}
    assert pictures == {"loss_steps", "loss_flops", "loss_seconds", "kl", "domains"}
    for name in pictures:
        png = (path.parent / f"{name}.png").read_bytes()
        assert base64.b64encode(png).decode() in html
    assert not re.search(r"<script|<link|https?:|src=\"(?!data:)|url\(", html)
    assert "&lt;i&gt;salt" in html
    assert "a &amp;&amp; b" in html


def test_without_a_teacher_there_is_no_distance_to_draw(runs, tmp_path):
    path = write_report(tmp_path / "report", **runs | {"salt": runs["baseline"]})
    assert not (path.parent / "kl.png").exists()
    assert "Distance from the teacher" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("evaluation.json", "evaluate"),
        ("samples.json", "evaluate"),
        ("experiment.json", "train"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused(name, command, runs, tmp_path):
    (runs["salt"] / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No {name} in .*command '{command}'"):
        write_report(tmp_path / "report", **runs)


def test_runs_evaluated_on_different_text_are_refused(runs, tmp_path):
    write_run(tmp_path / "other", (5.0, 4.0), 10.0, domains=("Github",))
    with pytest.raises(ValueError, match="different splits and domains"):
        write_report(tmp_path / "report", **runs | {"baseline": tmp_path / "other"})

"""Made-up runs of BASELINE, SALT and the SLM, as a report reads them."""

import json
import re

import numpy as np

from salt_jax.files.records import write_record
from salt_jax.training.step_costs import cost_of
from tests.sealed import write_lines

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
        "experiment.json": experiment(workdir.name),
        "samples.json": {
            "samples": [
                {
                    "domain": "Github",
                    "prompt": "def f(x):",
                    "continuation": f"\n    <i>{workdir.name}",
                }
            ]
        },
    }
    for name, content in files.items():
        write_record(workdir / name, content)
    write_lines(workdir / "metrics.jsonl", records)


def experiment(name):
    """Returns a run's settings: SALT has a teacher until step 40."""
    taught = {"teacher": "slm", "teacher_dtype": "int8", "teacher_rules": None}
    names = ("batch_size", "seq_len", "num_microbatches", "loss_chunk_tokens")
    fields = {"model": "small" if name == "slm" else "large", "mesh": 1, "rules": 2}
    stage = {"data": {"type": "Text"}, "distillation": None}
    stages = [stage | {"name": "standard", "end_step": 100}]
    if name == "salt":
        first = {"name": "distill", "end_step": 40, "distillation": taught}
        stages.insert(0, stage | first)
    shared = dict.fromkeys(names, 8) | {"optimizer": {"type": "AdamW"}}
    return fields | shared | {"seed": 3, "stages": stages}


def write_step_times(path, *names):
    """Writes step times: plain 2 s, taught 3 s, and the small model's 1 s."""
    updates = []
    for name, stage, median, flops in (
        ("baseline", 0, 2.0, 10.0),
        ("salt", 0, 3.0, 14.0),
        ("slm", 0, 1.0, 4.0),
    ):
        run = experiment(name)
        updates.append(
            {
                "name": f"{name}/{run['stages'][stage]['name']}",
                "cost": cost_of(run, run["stages"][stage]),
                # A slow minute fell on the others, which their ratios do not show.
                "median": median if name == "baseline" else median + 6.0,
                "flops": flops,
                "blocks": 30,
                "quartiles": [median - 0.25, median + 0.5],
                "coefficient_of_variation": 0.07,
                "ratio_to_plain": {
                    "median": median / 2,
                    "quartiles": [median / 2 - 0.125, median / 2 + 0.25],
                },
            }
        )
    kept = [x for x in updates if not names or x["name"] in names]
    write_record(path, {"steps_per_block": 4, "updates": kept})
    return path


def write_bill(path):
    """Writes the bill of two shards, of 40 and of 60 FLOPs."""
    records = [
        {"sequences": 1, "tokens": 16, "flops": flops, "seconds": 2.0}
        | {"shard": shard, "accelerators": 1, "ended_at": 10.0 + 2.0 * shard}
        for shard, flops in enumerate((40.0, 60.0))
    ]
    write_record(path / "bill-here.json", {"entries": records})


def worse_salt(runs):
    path = runs["salt"] / "metrics.jsonl"
    lines = path.read_text().replace('"val_loss": 3.5', '"val_loss": 4.25')
    write_lines(path, map(json.loads, lines.splitlines()))
    return runs


def rows(html):
    """Returns the text of each table row's cells."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found]

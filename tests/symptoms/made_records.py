"""Records of runs, as metrics.jsonl has them."""

import numpy as np

from salt_jax.symptoms.history import Span

STAGES = (
    Span(name="distill", begin_step=0, end_step=200, data="all"),
    Span(name="standard", begin_step=200, end_step=400, data="all"),
)


def good_run(*, seed=0, val_teacher_loss=3.0, until=400):
    """Records of a run that goes as it should, every 5 steps, with noise."""
    draw = np.random.default_rng(seed)
    records = []
    for step in range(5, until + 1, 5):
        taught = step <= 200
        ce = 3.2 + 4.0 * np.exp(-step / 60) + 0.05 * draw.normal()
        record = {"step": step, "loss": ce, "ce": ce}
        record["stage"] = "distill" if taught else "standard"
        if taught:
            kl = 0.2 + 3.0 * np.exp(-step / 25)
            record |= {"kl": kl, "kd": 3.0 + kl, "teacher_ce": 3.0, "kd_weight": 0.667}
            record["teacher_ce"] += 0.05 * draw.normal()
        records.append(blended(record))
        if step % 20 == 0:
            val = {"step": step, "val_loss": 3.2 + 4.0 * np.exp(-step / 60)}
            teacher = {"val_teacher_loss": val_teacher_loss} if taught else {}
            records.append(val | teacher)
    return records


def blended(record):
    weight = record.get("kd_weight", 0.0)
    kd = weight * record.get("kd", 0.0)
    return record | {"loss": (1.0 - weight) * record["ce"] + kd}

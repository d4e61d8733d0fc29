"""A made-up laboratory: three seeds of arms whose losses and costs are known."""

import json

from salt_jax.files.records import write_record
from salt_jax.lab.lab_file import LAB_FILE
from salt_jax.training.step_costs import cost_of
from tests.compared_runs import measures
from tests.sealed import write_lines

SEEDS = (0, 1, 2)
STEPS = (25, 50, 75, 100)
REFERENCE = "baseline"
# Held-out losses of seed 0 at STEPS; each further seed has 1/8 more at every step.
LOSSES = {
    "baseline": (6.0, 5.0, 4.5, 4.0),
    "salt": (5.0, 4.25, 3.75, 3.5),  # Passes at 62.5.
    "late": (5.0, 4.625, 4.25, 4.125),  # Never passes.
    "taught": (4.5, 3.875, 3.5, 3.25),  # Passes at 45.
    "averaged": (5.625, 4.75, 4.25, 3.875),  # Passes at 91.67.
}
TEACHERS = {"salt": "slm", "late": "slm", "taught": "big"}
SMALL = {"slm": (6.0, 5.5, 5.0, 4.5), "big": (4.0, 3.5, 3.2, 3.0)}
FLOPS_A_STEP = {"salt": 12.0, "late": 12.0, "taught": 12.0, "slm": 3.0, "big": 6.0}
VALIDATION = {"data": {"path": "data", "split": "val"}, "num_sequences": 8}


def experiment(root, name, seed):
    """Returns the settings of a run; a teacher is there until step 50."""
    names = ("batch_size", "num_microbatches", "loss_chunk_tokens", "mesh", "rules")
    shape = name if name in SMALL else "large"
    stage = {"name": "standard", "end_step": 100, "data": {}, "distillation": None}
    stages = [stage]
    if name in TEACHERS:
        export = f"{root}/{TEACHERS[name]}/seed-{seed}/export"
        taught = {"teacher": TEACHERS[name], "teacher_dtype": 0, "teacher_rules": 0}
        taught["teacher_export"] = export
        first = {"name": "distill", "end_step": 50, "distillation": taught}
        stages = [stage | first, stage]
    return dict.fromkeys(names, 8) | {
        "model": shape,
        "seq_len": 16,
        "seed": seed,
        "stages": stages,
        "optimizer": {"type": "AdamW"},
        "validation": VALIDATION,
    }


def write_run(root, name, seed, *, steps=STEPS, spread=0.125):
    """Writes a run of 100 steps, or the beginning of one."""
    losses = [loss + spread * seed for loss in ({**LOSSES, **SMALL})[name]]
    each = FLOPS_A_STEP.get(name, 10.0)
    records = []
    for step, loss in zip(steps, losses, strict=False):
        at = {"step": step, "flops": each * step, "seconds": float(step)}
        stage = "distill" if name in TEACHERS and step <= 50 else "standard"
        record = at | {"stage": stage, "ce": 1.0, "grad_norm": 2.0 / step}
        records.append(record | ({"kl": 1 / step} if stage == "distill" else {}))
        records.append(at | {"val_loss": loss})
    workdir = root / name / f"seed-{seed}" / "run"
    workdir.mkdir(parents=True)
    write_record(workdir / "experiment.json", experiment(root, name, seed))
    write_lines(workdir / "metrics.jsonl", records)
    return workdir


def write_evaluation(workdir, loss):
    """Writes what `evaluate` does: the domain "Code" is 1 nat harder."""
    domains = {"Code": measures(loss + 1), "Prose": measures(loss)}
    splits = {"test": {"domains": domains, "total": measures(loss)}}
    write_record(workdir / "evaluation.json", {"step": 100, "splits": splits})


def write_lab(root, *, arms=tuple(LOSSES), seeds=SEEDS, chosen_on=(), step_times=None):
    """Writes `lab.json`; returns its folder."""

    def entry(name):
        teacher = TEACHERS.get(name)
        return {
            "name": name,
            "gin_files": ["a.gin"],
            "bindings": ["SEED={seed}"],
            "folders": {str(s): f"{root}/{name}/seed-{s}/run" for s in seeds},
            "needs": {
                str(s): [f"{teacher}/seed-{s}/run"] if teacher else [] for s in seeds
            },
            "group": "taught" if teacher else "",
            "step_times": step_times and str(step_times),
        }

    folder = root / "reports" / "made"
    nodes = [
        {"name": f"{name}/seed-{seed}/run", "argv": ["train", f"--x={name}"]}
        | {"needs": [], "output": None}
        for name in (*SMALL, *arms)
        for seed in seeds
    ]
    write_record(
        folder / LAB_FILE,
        {
            "name": "made",
            "root": str(root),
            "reference": REFERENCE,
            "seeds": list(seeds),
            "chosen_on": list(chosen_on),
            "arms": [entry(name) for name in arms],
            "small_models": [entry(name) for name in SMALL],
            "scores": [],
            "nodes": nodes,
        },
    )
    return folder


def write_all(root, *, seeds=SEEDS, **lab):
    """Writes all runs of a laboratory, and `lab.json`; returns its folder."""
    for name in (*LOSSES, *SMALL):
        for seed in seeds:
            write_run(root, name, seed)
    return write_lab(root, seeds=seeds, **lab)


def write_step_times(root, path):
    """Writes step times: plain 2 s, taught by slm 3 s, and the small model's 1 s."""
    updates = []
    for name, stage, seconds in (
        ("baseline", 0, 2.0),
        ("salt", 0, 3.0),
        ("slm", 0, 1.0),
    ):
        run = experiment(root, name, 0)
        updates.append(
            {
                "name": name,
                "cost": cost_of(run, run["stages"][stage]),
                "median": seconds,
                "flops": 10.0,
                "blocks": 3,
                "quartiles": [seconds, seconds],
                "coefficient_of_variation": 0.1,
                "ratio_to_plain": {"median": seconds / 2, "quartiles": [1.0, 1.0]},
            }
        )
    write_record(path, {"steps_per_block": 4, "updates": updates})
    return path


def summary(folder):
    """Returns the arms of `summary.json` by name."""
    read = json.loads((folder / "summary.json").read_text())
    return {arm["name"]: arm for arm in read["arms"]}

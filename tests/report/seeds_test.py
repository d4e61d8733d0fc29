import pytest

from salt_jax.files.records import write_record
from salt_jax.report.seeds import Pair, seeds_table, with_error
from tests.sealed import write_lines

STEPS = (50, 100)


def write_run(workdir, seed, losses, test_loss, *, last_step=100):
    workdir.mkdir()
    records = [
        {"step": step, "val_loss": loss, "flops": float(step), "seconds": float(step)}
        for step, loss in zip(STEPS, losses, strict=True)
    ]
    write_lines(workdir / "metrics.jsonl", records)
    total = lambda loss: {"total": {"loss": loss}, "domains": {}}
    stage = {"name": "standard", "end_step": 100, "data": {}}
    files = {
        "evaluation.json": {
            "step": last_step,
            "splits": {"val": total(losses[-1]), "test": total(test_loss)},
        },
        "experiment.json": {"seed": seed, "stages": [stage]},
        "samples.json": {"samples": []},
    }
    for name, content in files.items():
        write_record(workdir / name, content)
    return workdir


def pair(folder, seed, baseline, salt):
    return Pair.read(
        write_run(folder / f"baseline-{seed}", seed, *baseline),
        write_run(folder / f"salt-{seed}", seed, *salt),
    )


def test_the_table_has_each_seed_and_their_mean(tmp_path):
    pairs = [
        pair(tmp_path, 0, ([5.0, 4.0], 4.2), ([4.5, 3.5], 4.0)),
        pair(tmp_path, 1, ([5.0, 4.0], 4.4), ([4.5, 3.9], 4.0)),
    ]
    _, _, first, second, mean = seeds_table(pairs).splitlines()
    assert first == (
        "| 0 | 4.0000 | 3.5000 | -0.5000 | 4.2000 | 4.0000 | -0.2000 | "
        "75% of the steps |"
    )
    assert second.endswith("| 4.4000 | 4.0000 | -0.4000 | 92% of the steps |")
    assert mean == (
        "| mean | 4.0000 | 3.7000 | -0.3000 \u00b1 0.2000 [-2.8412, +2.2412] | "
        "4.3000 | 4.0000 | -0.3000 \u00b1 0.1000 [-1.5706, +0.9706] | 83% |"
    )


def test_a_seed_that_never_passes_is_not_averaged_away(tmp_path):
    pairs = [
        pair(tmp_path, 0, ([5.0, 4.0], 4.0), ([4.5, 3.5], 4.0)),
        pair(tmp_path, 1, ([5.0, 4.0], 4.0), ([4.5, 4.1], 4.0)),
    ]
    *_, second, mean = seeds_table(pairs).splitlines()
    assert second.endswith("| never |")
    assert mean.endswith("| 1 of 2 |")


def test_one_seed_has_neither_an_error_nor_an_interval():
    assert with_error([1.5], "+.1f", interval=True) == "+1.5"


def test_runs_of_different_seeds_or_lengths_are_not_compared(tmp_path):
    baseline = write_run(tmp_path / "a", 0, [5.0, 4.0], 4.0)
    other_seed = write_run(tmp_path / "b", 1, [5.0, 4.0], 4.0)
    shorter = write_run(tmp_path / "c", 0, [5.0, 4.0], 4.0, last_step=50)
    with pytest.raises(ValueError, match="has seed 0 and .* 1"):
        Pair.read(baseline, other_seed)
    with pytest.raises(ValueError, match="number of steps 100 and .* 50"):
        Pair.read(baseline, shorter)

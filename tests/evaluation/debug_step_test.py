import re

import jax
import numpy as np
import pytest

from salt_jax.commands import parser
from salt_jax.data.reading.rows import SequenceRows
from salt_jax.evaluation.debug_step import debug_step
from salt_jax.optim.guard import UpdateGuard
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.norms import KINDS, step_norms
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from tests import runs
from tests.examples import on_mesh, packed_batch
from tests.runs import N_KD, TOTAL_STEPS

BAD_ROW, BAD_BATCH = 5, 2


def contents(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


def spoil(monkeypatch):
    """Makes a row of a batch one without a finite loss, as damaged data would."""
    read = SequenceRows.read

    def spoiled(self, numbers):
        batch = read(self, numbers)
        bad = numbers == BAD_BATCH * 8 + BAD_ROW
        weights_BL = np.where(bad[:, None], np.float32(np.nan), batch.weights_BL)
        return batch.replace(weights_BL=weights_BL)

    monkeypatch.setattr(SequenceRows, "read", spoiled)


def norms_of(text):
    """The table of norms in the text: by layer, then by kind."""
    lines = text.split("\n\n")[1].splitlines()[1:]
    cells = [line.rsplit(maxsplit=3) for line in lines if "not finite" not in line]
    return {
        name: dict(zip(KINDS, map(float, numbers), strict=True))
        for name, *numbers in cells
    }


@pytest.mark.slow
def test_a_step_is_replayed_as_it_was_and_nothing_is_written(files, tmp_path):
    run = runs.experiment(files, validation=None, skip_batches=((1, 2),))
    train(run, tmp_path)
    before = contents(tmp_path)
    records = {r["step"]: r for r in read_metrics(tmp_path)}
    for step in (1, N_KD, N_KD + 2, TOTAL_STEPS):
        text = debug_step(run, tmp_path, step)
        metrics = dict(re.findall(r"(\w+) (-?[\d.e-]+)", text.splitlines()[1]))
        for name in ("loss", "ce"):
            assert float(metrics[name]) == pytest.approx(records[step][name], rel=1e-5)
        norms = norms_of(text)
        for kind, name in (("gradient", "grad_norm"), ("update", "update_norm")):
            whole = np.sqrt(sum(x[kind] ** 2 for x in norms.values()))
            assert whole == pytest.approx(records[step][name], rel=1e-3)
        assert {"layer 0", "layer 1", "params.embedding_VD"} <= {*norms}
        assert ("teacher_ce" in text) == (step <= N_KD)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_the_row_that_is_bad_leads_with_its_text(files, tmp_path, monkeypatch):
    spoil(monkeypatch)
    run = runs.experiment(files, validation=None)
    with pytest.raises(FloatingPointError, match="--debug_step=3 "):
        train(run, tmp_path)
    text = debug_step(run, tmp_path, BAD_BATCH + 1)
    assert "gradient is not finite in params.embedding_VD" in text
    _, table = text.split("8 rows, ")
    first, second = table.splitlines()[2:4]
    loader = StageInputs.open(Program.on(run), run.stages[0]).loader
    ids = loader.rows.ids(loader.row_numbers(BAD_BATCH))
    assert first.split()[:4] == [str(BAD_ROW), str(ids[BAD_ROW]), "nan", "nan"]
    assert "nan" not in second
    assert re.search(r"model|large|helps|first", first)


def test_the_norm_of_a_layer_is_that_of_its_arrays():
    run = runs.experiment("/nowhere", guard=UpdateGuard())
    program, stage = Program.on(run), run.stages[1]
    state = program.fresh_state()
    batch = on_mesh(packed_batch(rows=8), program.partitioning)
    found = step_norms(program.update(stage), state, None, batch)
    params = jax.device_get(state.params["params"])
    for layer in (0, 1):
        arrays = [x[layer] for x in jax.tree.leaves(params["layers"])]
        expected = np.sqrt(sum(np.square(x).sum() for x in arrays))
        norm = found.by_layer[f"layer {layer}"]["params"]
        assert norm == pytest.approx(float(expected), rel=1e-5)
    assert not found.not_finite


def test_a_step_that_is_none_of_the_experiments_is_refused(tmp_path):
    run = runs.experiment("/nowhere")
    with pytest.raises(ValueError, match=rf"debug_step=8.*1 to {TOTAL_STEPS}"):
        debug_step(run, tmp_path, TOTAL_STEPS + 1)
    with pytest.raises(ValueError, match="--debug_step.*--tracker"):
        parser.parse(["train", "--gin_file=x", "--debug_step=3", "--tracker=wandb"])

"""Runs that have a fault warn of it: in the log, the records and the status."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.batch import Batch
from salt_jax.config import Distillation
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.selecting.ranking import HighestScores
from salt_jax.data.selecting.selection import Selection
from salt_jax.export import export_run
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.symptoms.lookout import FIELD
from salt_jax.symptoms.watch import Watch
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.telemetry.status import read_status
from salt_jax.train import train
from tests import runs
from tests.made_scores import write_scores
from tests.runs import SEQ_LEN, STUDENT

N_KD, TOTAL_STEPS = 30, 42
pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One value in stage one, another after it."""

    first: float
    then: float

    def __call__(self, step):
        return jnp.where(jnp.asarray(step) < N_KD, self.first, self.then)


def experiment(files, rates, *, data=None, **distillation):
    """A run of two stages, that differ only as told; `rates` are learning rates."""
    found = runs.experiment(files)
    distill, standard = found.stages
    if data is not None:
        distill, standard = (dataclasses.replace(x, data=data) for x in found.stages)
    changed = dataclasses.replace(distill.distillation, **distillation)
    assert isinstance(changed, Distillation)
    stages = (
        dataclasses.replace(distill, end_step=N_KD, distillation=changed),
        dataclasses.replace(standard, end_step=TOTAL_STEPS),
    )
    first, then = rates
    return dataclasses.replace(
        found,
        stages=stages,
        optimizer=AdamW(learning_rate=Step(first=first, then=then), clip_norm=1.0),
        save_every=100,
    )


def warned(workdir):
    """Returns the stages in which each warning was given, from the records."""
    found, stage = {}, ""
    for record in read_metrics(workdir):
        stage = record.get("stage", stage)
        for name, line in record.items():
            if name.startswith(FIELD):
                found.setdefault(name.removeprefix(FIELD), []).append((stage, line))
    told = [x["message"] for x in read_status(workdir).warnings]
    for line in [line for lines in found.values() for _, line in lines]:
        assert sum(line in message for message in told) == 1
    return {kind: [stage for stage, _ in lines] for kind, lines in found.items()}


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    """BASELINE, and its export as a teacher that has learned something."""
    workdir = tmp_path_factory.mktemp("alone")
    found = experiment(files, (1e-2, 3e-3))
    (_, standard) = found.stages
    found = dataclasses.replace(found, stages=(standard,))
    train(found, workdir)
    export_run(found, workdir, workdir / "export")
    return workdir


def test_a_run_that_goes_as_it_should_warns_of_nothing(alone):
    assert warned(alone) == {}


def test_a_run_that_learns_nothing_is_flat_behind_baseline_and_on_a_plateau(
    files, alone, tmp_path
):
    run = experiment(files, (1e-9, 0.0))
    train(dataclasses.replace(run, watch=None), tmp_path / "quiet")
    watch = Watch(baseline=str(alone))
    train(dataclasses.replace(run, watch=watch), tmp_path / "run")
    found = warned(tmp_path / "run")
    assert found["flat_kl"] == ["distill"]
    assert found["behind_baseline"] == ["distill", "standard"]
    assert found["plateau"] == ["standard"]
    assert "loss_jump" not in found and "difficulty_drift" not in found
    # A watch changes no number.
    assert warned(tmp_path / "quiet") == {}
    both = [read_metrics(tmp_path / name) for name in ("quiet", "run")]
    for one, other in zip(*both, strict=True):
        for name in ("loss", "val_loss", "kl", "grad_norm", "tokens"):
            assert one.get(name) == other.get(name)


def test_a_learning_rate_that_explodes_after_the_transition_is_a_jump(files, tmp_path):
    train(experiment(files, (1e-2, 3.0), kd_weight=Constant(value=0.99)), tmp_path)
    found = warned(tmp_path)
    assert found["loss_jump"] == ["standard"]
    assert found["swamped_term"] == ["distill"]  # By its weight.
    assert found["weak_teacher"] == ["distill"]  # It has learned nothing.


def test_labels_of_a_high_temperature_swamp_the_targets(files, alone, tmp_path):
    teacher = {"teacher": STUDENT, "teacher_export": str(alone / "export")}
    train(experiment(files, (1e-2, 1e-3), temperature=50.0, **teacher), tmp_path)
    assert warned(tmp_path)["swamped_term"] == ["distill"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EasyFirst:
    """Rows that repeat one token, and from batch 15 on rows of random tokens."""

    vocabulary: str = runs.VOCABULARY
    has_prefix: bool = False

    def open_rows(self, *, seq_len, seed):
        return self

    rows_per_epoch = None

    def fingerprint(self):
        return "easy first"

    def read(self, numbers):
        draw = np.random.default_rng(int(numbers[0]))
        shape = len(numbers), SEQ_LEN
        tokens_BL = np.full(shape, 100, np.int32)
        random_BL = draw.integers(10, 4000, shape).astype(np.int32)
        tokens_BL = np.where(numbers[:, None] >= 15 * 8, random_BL, tokens_BL)
        ones_BL = np.ones(shape, np.int32)
        return Batch(
            tokens_BL=tokens_BL,
            targets_BL=np.roll(tokens_BL, -1, axis=1),
            weights_BL=np.ones(shape, np.float32),
            segments_BL=ones_BL,
            positions_BL=np.cumsum(ones_BL, axis=1, dtype=np.int32) - 1,
        )


def test_text_that_becomes_harder_while_it_is_read_drifts(files, tmp_path):
    train(experiment(files, (1e-3, 1e-3), data=EasyFirst()), tmp_path)
    assert warned(tmp_path)["difficulty_drift"] == ["distill"]


@pytest.fixture(scope="module")
def scores(files, tmp_path_factory):
    """Scores that are high for prose alone."""
    path = tmp_path_factory.mktemp("scores")
    dataset = PreparedDataset.open(files / "data/train")
    found = dataset.read(np.arange(len(dataset))).domains
    domains = np.array([np.bincount(row[row >= 0]).argmax() for row in found])
    prose = dataset.manifest.domains.index("Prose")
    columns = {"median_k10_zeros": domains == prose, "domain": domains}
    columns["sketch"] = np.arange(len(dataset))
    write_scores(path, dataset, columns)
    return str(path)


def test_a_selection_that_keeps_one_domain_starves_the_other(
    files, scores, tmp_path, caplog
):
    run = runs.experiment(files)
    distill, standard = run.stages
    selection = Selection(
        scores=scores,
        ranking=HighestScores(score="median_k10_zeros"),
        keep_fraction=0.3,
    )
    data = dataclasses.replace(distill.data, selection=selection)
    stages = (dataclasses.replace(distill, data=data), standard)
    train(dataclasses.replace(run, stages=stages), tmp_path)
    assert warned(tmp_path)["starved_domain"] == ["distill"]
    (line,) = [x for x in caplog.messages if "starves" in x]
    assert "Stage 'distill', step 0" in line and "Verse" in line
    first = read_metrics(tmp_path)[0]
    assert first["step"] == 1 and "warning_starved_domain" in first


@pytest.mark.parametrize("wrong", ["nowhere", "unmeasured"])
def test_a_baseline_without_held_out_losses_is_refused(wrong, files, tmp_path):
    run = runs.experiment(files)
    (tmp_path / "unmeasured").mkdir()
    (tmp_path / "unmeasured" / "metrics.jsonl").write_text("")
    watch = Watch(baseline=str(tmp_path / wrong))
    with pytest.raises((FileNotFoundError, ValueError), match=wrong):
        train(dataclasses.replace(run, watch=watch), tmp_path / "run")
    with pytest.raises(ValueError, match="no validation"):
        blind = dataclasses.replace(run, watch=watch, validation=None)
        train(blind, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

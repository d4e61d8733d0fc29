"""The exact excess risk of models of a language with a known truth."""

import json

import jax
import numpy as np
import pytest

from salt_jax import gin_config
from salt_jax.evaluate import evaluate_run
from salt_jax.evaluation.held_out_language import excess_reader, kl_divergence
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.train import train
from tests.known_language import MODEL, TruthItself, all_rows, language


def fresh(seed):
    partitioning = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    model = Transformer(MODEL, partitioning)
    key = jax.random.key(seed)
    params = partitioning.materialize(lambda key: init_params(model, key), key)
    # A spread that a trained model could have.
    return model, jax.tree.map(lambda x: 3.0 * x, params)


def test_the_truth_has_no_excess_risk(tmp_path):
    truth = language(tmp_path).truth()
    batch, _ = all_rows(truth, 4)
    read = excess_reader(TruthItself.of(truth), truth)
    excess_BL = read({"scale": np.float32(1.0)}, batch).ce_BL
    np.testing.assert_allclose(excess_BL, 0.0, atol=1e-5)
    warmer_BL = read({"scale": np.float32(0.5)}, batch).ce_BL
    assert np.min(warmer_BL) > 0.01


@pytest.mark.parametrize("order", [1, 2])
def test_the_excess_risk_is_that_of_an_enumeration_of_all_rows(order, tmp_path):
    truth = language(tmp_path, order=order).truth()
    batch, chances_B = all_rows(truth, 4)
    model, params = fresh(seed=order)
    excess_BL = np.asarray(excess_reader(model, truth)(params, batch).ce_BL)
    risk = np.sum(chances_B * excess_BL.sum(axis=1))
    # By definition: the mean over rows of log P(row) - log Q(row).
    log_q_BLV = np.asarray(jax.nn.log_softmax(model.apply(params, batch).logits()))
    log_q_B = np.take_along_axis(log_q_BLV, batch.targets_BL[..., None], -1).sum((1, 2))
    is_possible_B = chances_B > 0
    log_p_B = np.log(chances_B[is_possible_B])
    brute = np.sum(chances_B[is_possible_B] * (log_p_B - log_q_B[is_possible_B]))
    assert risk == pytest.approx(brute, rel=1e-5)
    assert risk > 0.1


def test_tokens_that_the_truth_never_writes_add_nothing_to_kl():
    p = np.array([0.0, 0.25, 0.75], np.float32)
    log_q = np.log(np.array([1e-30, 0.5, 0.5], np.float32))
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert float(kl_divergence(p, log_q)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_training_and_evaluation_measure_the_excess_risk(tmp_path):
    overrides = ["TOTAL_STEPS = 30", "config.Validation.every = 15"]
    experiment = gin_config.load(["gin/tiny_markov.gin"], overrides)
    workdir = tmp_path / "run"
    train(experiment, workdir)
    records = [
        json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    measured = [x for x in records if "val_excess_risk" in x]
    assert [x["step"] for x in measured] == [15, 30]
    assert 0.02 < measured[1]["val_excess_risk"] < measured[0]["val_excess_risk"]
    truth = experiment.validation.data.truth()
    rows = experiment.validation.data.open_rows(seq_len=64, seed=0)
    contexts_BL = truth.contexts(rows.read(np.arange(256)).tokens_BL)
    floor = truth.entropies[contexts_BL].mean()
    # Up to the chance in the targets, of which there are 16,384.
    for record in measured:
        assert record["val_loss"] - record["val_excess_risk"] == pytest.approx(
            floor, abs=0.02
        )
    table = evaluate_run(experiment, workdir)
    assert f"{measured[1]['val_excess_risk']:.5f}" in table

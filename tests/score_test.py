import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest

from salt_jax.config import Scoring
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.data.scoring.minhash import sketches
from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.data.scoring.score_columns import QUANTILES, main_domains
from salt_jax.data.scoring.scores import Scores
from salt_jax.files.bill import read_bill as bill_of_run
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.model.flops import forward_flops
from salt_jax.model.transformer import Transformer, abstract_params
from salt_jax.score import score
from salt_jax.storage.export import Export
from tests import runs
from tests.examples import dense_reading, partitioning

KS = (10, 700, 3000)  # A fresh model puts targets anywhere among 4,096.
COUNT = 70


def scoring(files, output, **changes):
    fields = dict(
        scorer=runs.TEACHER,
        scorer_export=str(files / "teacher"),
        data=PreparedText(path=str(files / "data"), vocabulary=runs.VOCABULARY),
        seq_len=runs.SEQ_LEN,
        output=str(output),
        ks=KS,
        pool=COUNT,
        batch_size=16,
        sequences_per_shard=30,
        mesh=MeshShape(model=2),
        scorer_dtype="float32",
        chunk_tokens=8,
    )
    return Scoring(**fields | changes)


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("scores")
    return score(scoring(files, output))


def scorer_params(files):
    model = Transformer(runs.TEACHER, partitioning())
    return Export.open(files / "teacher").load(abstract_params(model, "float32"))


def read_all(files):
    """The first sequences, and what the scorer makes of them by the dense formula."""
    dataset = scoring(files, "").data.open(seq_len=runs.SEQ_LEN)
    sequences = dataset.read(np.arange(COUNT))
    return sequences, *dense_reading(runs.TEACHER, scorer_params(files), sequences)


def columns(scores):
    return {name: scores.column(name) for name in scores.manifest.columns}


def assert_same_scores(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        # Sums in another order, which float16 may round another way.
        tolerance = 2.0**-10 if name == "loss_quantiles" else 1e-5
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("k", KS)
def test_a_score_is_the_median_loss_of_the_targets_in_the_top_k(k, files, done):
    sequences, ce_NL, rank_NL = read_all(files)
    zeros, dropped = [], []
    for row in range(COUNT):
        counted = sequences.segments[row] > 0
        ce, hit = ce_NL[row, counted], rank_NL[row, counted] < k
        zeros.append(np.median(hit * ce))
        dropped.append(np.median(ce[hit]) if hit.any() else 0.0)
    for name, expected in ("zeros", zeros), ("dropped", dropped):
        found = done.column(f"median_k{k}_{name}")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    if k == max(KS):
        assert np.count_nonzero(zeros) > COUNT / 2


def test_the_mean_loss_is_over_targets_and_not_over_padding(files, done):
    sequences, ce_NL, _ = read_all(files)
    expected = ce_NL.mean(axis=1, where=sequences.segments > 0)
    np.testing.assert_allclose(done.column("mean_loss"), expected, rtol=1e-5)


def test_entropy_is_that_of_the_scorers_own_distribution(files, done):
    dataset = scoring(files, "").data.open(seq_len=runs.SEQ_LEN)
    sequences = dataset.read(np.arange(COUNT))
    model = Transformer(runs.TEACHER, partitioning())
    unembedding = model.apply(scorer_params(files), causal_batch(sequences))
    logits_NLV = np.asarray(unembedding.logits(), np.float64)
    log_p_NLV = logits_NLV - np.logaddexp.reduce(logits_NLV, axis=-1, keepdims=True)
    entropy_NL = -np.sum(np.exp(log_p_NLV) * log_p_NLV, axis=-1)
    expected = entropy_NL.mean(axis=1, where=sequences.segments > 0)
    np.testing.assert_allclose(done.column("entropy"), expected, rtol=1e-5)


def test_quantiles_sketches_and_domains_are_of_the_sequences(files, done):
    sequences, ce_NL, _ = read_all(files)
    is_target_NL = sequences.segments > 0
    found = done.column("loss_quantiles")
    for row in range(COUNT):
        expected = np.quantile(ce_NL[row, is_target_NL[row]], QUANTILES)
        np.testing.assert_allclose(found[row], expected, rtol=2.0**-10)
    expected = sketches(sequences.tokens, is_target_NL)
    np.testing.assert_array_equal(done.column("sketch"), expected)
    domains = done.column("domain")
    np.testing.assert_array_equal(domains, main_domains(sequences.domains))
    assert set(domains) == {0, 1}


def test_only_the_pool_is_scored(done):
    assert len(done) == len(done.column("mean_loss")) == COUNT


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": MeshShape()},
        {"mesh": MeshShape(replica=2, model=2)},
        {"batch_size": 8},
        {"sequences_per_shard": 1000},
        {"chunk_tokens": 1024},
    ],
    ids=str,
)
def test_scores_do_not_depend_on_how_they_are_made(change, files, done, tmp_path):
    other = score(scoring(files, tmp_path, **change))
    assert_same_scores(columns(other), columns(done))


def test_one_pass_gives_every_k_what_it_gives_alone(files, done, tmp_path):
    alone = columns(score(scoring(files, tmp_path, ks=(700,))))
    assert_same_scores(alone, {name: done.column(name) for name in alone})


def test_a_lost_shard_is_scored_again_and_no_other_is_touched(files, done, tmp_path):
    job = scoring(files, tmp_path)
    score(job)
    shards = sorted(tmp_path.glob("*.npy"))
    shards[1].unlink()
    written = [shards[i].stat().st_mtime_ns for i in (0, 2)]
    assert_same_scores(columns(score(job)), columns(done))
    assert [shards[i].stat().st_mtime_ns for i in (0, 2)] == written


def test_the_bill_is_the_formula_for_what_was_read_and_grows_when_it_goes_on(
    files, tmp_path
):
    job = scoring(files, tmp_path)
    score(job)
    first = read_bill(tmp_path)
    per_sequence = runs.SEQ_LEN * forward_flops(runs.TEACHER, runs.SEQ_LEN)
    assert (first.sequences, first.flops) == (COUNT, COUNT * per_sequence)
    assert first.tokens == COUNT * runs.SEQ_LEN
    assert first.accelerator_seconds == pytest.approx(8 * first.seconds, rel=0.05)
    sorted(tmp_path.glob("*.npy"))[2].unlink()
    score(job)
    last = read_bill(tmp_path)
    assert last.flops == 80 * per_sequence  # The last shard was read twice.
    assert last.seconds > first.seconds > 0


def test_what_is_scored_already_costs_nothing(files, tmp_path):
    job = scoring(files, tmp_path)
    score(job)
    before = contents(tmp_path)
    score(dataclasses.replace(job, batch_size=8))
    assert contents(tmp_path) == before


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_nothing_is_left_beside_the_scores_and_the_bill(done):
    names = {re.sub("bill-.*", "bill", file.name) for file in done.path.iterdir()}
    shards = {done.manifest.shard_name(shard) for shard in range(3)}
    assert names == {"manifest.json", "bill", "bill.json"} | shards
    bill, whole = bill_of_run(done.path), read_bill(done.path)
    assert bill.flops == {"scoring": whole.flops}
    assert (bill.rows, bill.devices) == (whole.sequences, 8)
    assert bill.bytes_read == whole.bytes_read > 2 * whole.tokens


def test_a_shard_that_another_writes_meanwhile_is_left_alone(
    files, done, tmp_path, monkeypatch
):
    # Another host begins at the far end, and is done with a shard while this one
    # reads the first batch of it.
    job = scoring(files, tmp_path)
    read = PreparedDataset.read

    def read_while_another_writes(dataset, ids):
        if ids[0] == 30:
            name = done.manifest.shard_name(1)
            shutil.copy(done.path / name, tmp_path / name)
        return read(dataset, ids)

    monkeypatch.setattr(PreparedDataset, "read", read_while_another_writes)
    scores = score(job)
    assert_same_scores(columns(scores), columns(done))
    assert read_bill(tmp_path).sequences == 30 + 16 + 10
    assert scores.manifest.zero_shares == done.manifest.zero_shares


def test_scores_are_of_the_scorer_and_the_data(files, done):
    dataset = scoring(files, "").data.open(seq_len=runs.SEQ_LEN)
    fingerprint = Export.open(files / "teacher").fingerprint
    assert done.manifest.scorer_fingerprint == fingerprint
    assert len(Scores.open(done.path, dataset)) == COUNT


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 6}, "batch_size=6 .* 4 "),
        ({"scorer_export": "/nowhere"}, "No export at /nowhere"),
        ({"seq_len": 32}, "prepared with seq_len=16, not 32"),
        ({"pool": 10_000}, "count=10000"),
        ({"scorer": runs.STUDENT}, "embed_dim=24, not 16"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message, files, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        score(scoring(files, tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


def test_a_scorer_that_is_too_large_is_refused_before_anything_is_made(files, tmp_path):
    huge = dataclasses.replace(runs.TEACHER, num_layers=200, mlp_dim=2**24)
    before = len(jax.live_arrays())
    with pytest.raises(ValueError, match=r"[\d.]+ GiB .*scorer"):
        score(scoring(files, tmp_path, scorer=huge))
    assert len(jax.live_arrays()) == before

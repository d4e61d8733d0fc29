import dataclasses

import numpy as np
import pytest

from salt_jax.data.loader import Loader
from salt_jax.data.scores import ScoresWriter
from salt_jax.data.selection import HighestScores, RandomSubset
from salt_jax.partitioning import MeshShape, Partitioning
from tests.examples import batch_ids

POOL = 40


@pytest.fixture(scope="module")
def values():
    """Scores of the pool, with ties."""
    return np.random.default_rng(0).integers(0, 8, POOL).astype(np.float32)


@pytest.fixture(scope="module")
def scores(train, values, tmp_path_factory):
    """The scores of the first sequences; other columns prefer other sequences."""
    path = tmp_path_factory.mktemp("scores")
    writer = ScoresWriter.open(
        path, train, scorer_fingerprint="abc", count=POOL, ks=(10,)
    )
    columns = dict.fromkeys(writer.manifest.columns, -values)
    writer.write_shard(0, columns | {"median_k10_zeros": values})
    writer.finish()
    return str(path)


@pytest.mark.parametrize("keep_fraction", [0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_the_share_asked_for_is_kept_of_what_was_scored(
    kind, keep_fraction, scores, train
):
    ids = kind(scores=scores, keep_fraction=keep_fraction).select(train)
    assert len(ids) == len(set(ids)) == round(keep_fraction * POOL)
    assert ids.dtype == np.int64
    assert (np.diff(ids) > 0).all()
    assert ids[0] >= 0
    assert ids[-1] < POOL < len(train)


@pytest.mark.parametrize("keep_fraction", [0.05, 0.3, 0.5])
def test_what_is_kept_scores_no_less_than_what_is_not(
    keep_fraction, scores, train, values
):
    ids = HighestScores(scores=scores, keep_fraction=keep_fraction).select(train)
    lost = np.setdiff1d(np.arange(POOL), ids)
    assert values[ids].min() >= values[lost].max()


def test_of_equal_scores_the_smaller_ids_are_kept(scores, train, values):
    order = sorted(range(POOL), key=lambda i: (-values[i], i))
    for count in range(1, POOL):
        selection = HighestScores(scores=scores, keep_fraction=count / POOL)
        assert selection.select(train).tolist() == sorted(order[:count])


def test_another_column_is_another_selection(scores, train, values):
    lowest = HighestScores(scores=scores, keep_fraction=0.1, score="mean_loss")
    assert values[lowest.select(train)].max() <= np.sort(values)[4]


def test_a_random_subset_depends_on_its_seed_alone(scores, train):
    def ids(seed):
        subset = RandomSubset(scores=scores, keep_fraction=0.5, seed=seed)
        return subset.select(train).tolist()

    assert ids(1) == ids(1) != ids(2)


@pytest.mark.parametrize("keep_fraction", [0.0, -0.1, 1.01])
@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_a_share_that_cannot_be_is_refused(kind, keep_fraction):
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {keep_fraction}"):
        kind(scores="", keep_fraction=keep_fraction)


@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_keeping_nothing_is_refused(kind, scores, train):
    with pytest.raises(ValueError, match=r"0\.01 of 40 scored sequences is none"):
        kind(scores=scores, keep_fraction=0.01).select(train)


@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_scores_of_other_data_are_refused(kind, scores, prepared):
    with pytest.raises(ValueError, match="are of the dataset"):
        kind(scores=scores, keep_fraction=0.5).select(prepared["val"])


@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_missing_scores_are_not_keep_everything(kind, train, tmp_path):
    with pytest.raises(FileNotFoundError, match="No scores at"):
        kind(scores=str(tmp_path), keep_fraction=0.5).select(train)


@pytest.mark.parametrize("kind", [HighestScores, RandomSubset])
def test_a_loader_reads_only_what_is_selected(kind, scores, pile, train):
    selection = kind(scores=scores, keep_fraction=0.5)
    loader = Loader(
        dataclasses.replace(pile, selection=selection),
        batch_size=4,
        seq_len=16,
        seed=0,
        partitioning=Partitioning(mesh=MeshShape(data=4, model=2).build()),
    )
    ids = np.concatenate([batch_ids(loader, index) for index in range(POOL // 2 // 4)])
    np.testing.assert_array_equal(np.sort(ids), selection.select(train))

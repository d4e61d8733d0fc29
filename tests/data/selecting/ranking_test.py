import numpy as np
import pytest

from salt_jax.data.selecting.ranking import (
    BANDS,
    HighestScores,
    Learnability,
    PerplexityBand,
    Random,
)
from salt_jax.data.selecting.selection import Selection
from tests.made_scores import write_scores

POOL = 48


@pytest.fixture(scope="module")
def losses():
    """Half of them are all the same."""
    values = np.random.default_rng(0).normal(size=POOL).astype(np.float32)
    values[::2] = 0.25
    return values


@pytest.fixture(scope="module")
def scores(train, losses, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores")
    columns = {"mean_loss": losses, "entropy": -losses}
    return write_scores(path, train, columns, shard_size=20)


def kept(scores, train, ranking, keep_fraction):
    selection = Selection(
        scores=str(scores.path), ranking=ranking, keep_fraction=keep_fraction
    )
    return selection.select(train)


def test_scores_are_worth_what_they_are(scores, train, losses):
    for name, values in ("mean_loss", losses), ("entropy", -losses):
        worth = HighestScores(score=name).worth(scores, train)
        np.testing.assert_array_equal(worth, values)


@pytest.mark.parametrize("score", ["median_k7_zeros", "sketch", "loss_quantiles"])
def test_a_column_that_cannot_be_ranked_by_is_refused_with_those_that_can(
    score, scores, train
):
    with pytest.raises(ValueError, match=rf"no column '{score}'.* mean_loss, entropy"):
        HighestScores(score=score).worth(scores, train)


def test_random_is_an_order_of_all_that_depends_on_its_seed_alone(scores, train):
    worth = Random(seed=1).worth(scores, train)
    assert sorted(worth) == list(range(POOL))
    np.testing.assert_array_equal(worth, Random(seed=1).worth(scores, train))
    assert (worth != Random(seed=2).worth(scores, train)).any()


def test_a_larger_random_share_holds_a_smaller_one(scores, train):
    small, large = (kept(scores, train, Random(seed=1), x) for x in (0.25, 0.5))
    assert set(small) < set(large)


def test_the_bands_of_a_third_are_disjoint_and_together_everything(scores, train):
    bands = [kept(scores, train, PerplexityBand(band=x), 1 / 3) for x in BANDS]
    assert sorted(np.concatenate(bands)) == list(range(POOL))


def test_the_low_band_is_the_easiest_and_the_high_one_the_hardest(
    scores, train, losses
):
    low, mid, high = (
        losses[kept(scores, train, PerplexityBand(band=x), 1 / 3)] for x in BANDS
    )
    assert low.max() <= mid.min() <= mid.max() <= high.min()
    assert low.mean() < mid.mean() < high.mean()


def test_the_middle_is_counted_in_ranks_from_the_middle(tmp_path, train):
    # As a distance of losses, the middle would be 0 to 4.
    losses = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 6.0, 7.0, 80.0])
    scores = write_scores(tmp_path, train, {"mean_loss": losses})
    assert kept(scores, train, PerplexityBand(band="mid"), 1 / 3).tolist() == [3, 4, 5]


def test_of_equal_losses_the_smaller_ids_are_the_easier(tmp_path, train):
    scores = write_scores(tmp_path, train, {"mean_loss": np.ones(60)})
    low, mid, high = (
        kept(scores, train, PerplexityBand(band=x), 1 / 3).tolist() for x in BANDS
    )
    assert low + mid + high == list(range(60))


def test_another_band_is_refused():
    with pytest.raises(ValueError, match=r"\('low', 'mid', 'high'\), got 'middle'"):
        PerplexityBand(band="middle")


def test_what_was_learnt_is_the_early_loss_less_the_late_one(scores, train, tmp_path):
    late = np.linspace(3, 0, POOL).astype(np.float32)
    write_scores(tmp_path, train, {"mean_loss": late})
    worth = Learnability(reference=str(tmp_path)).worth(scores, train)
    np.testing.assert_array_equal(worth, scores.column("mean_loss") - late)


def test_from_a_scorer_to_itself_nothing_is_learnt_and_ties_decide(scores, train):
    ranking = Learnability(reference=str(scores.path), score="entropy")
    assert not ranking.worth(scores, train).any()
    assert kept(scores, train, ranking, 0.25).tolist() == list(range(POOL // 4))


@pytest.mark.parametrize("pool", [20, POOL + 5])
def test_what_was_learnt_is_known_of_the_smaller_pool(scores, train, tmp_path, pool):
    write_scores(tmp_path, train, {"mean_loss": np.ones(pool)})
    worth = Learnability(reference=str(tmp_path)).worth(scores, train)
    assert len(worth) == min(pool, POOL)


def test_a_reference_of_other_data_is_refused(scores, train, prepared, tmp_path):
    write_scores(tmp_path, prepared["val"], {"mean_loss": np.ones(8)})
    with pytest.raises(ValueError, match=f"{tmp_path} are of the dataset"):
        Learnability(reference=str(tmp_path)).worth(scores, train)
    with pytest.raises(FileNotFoundError, match="No scores at /nowhere"):
        Learnability(reference="/nowhere").worth(scores, train)

import dataclasses
import json
import logging

import numpy as np
import pytest

from salt_jax.data.reading.loader import Loader
from salt_jax.data.scoring import score_shards
from salt_jax.data.selecting.ranking import HighestScores, PerplexityBand, Random
from salt_jax.data.selecting.selection import Selection, stage_warnings
from salt_jax.files.records import write_record
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from tests.examples import batch_ids
from tests.made_scores import write_scores

POOL = 40
HIGHEST = HighestScores(score="median_k10_zeros")
RANKINGS = [HIGHEST, Random(seed=0), PerplexityBand(band="mid")]
SHARES = [0.04, 0.3, 0.5, 1.0]
each_ranking = pytest.mark.parametrize("ranking", RANKINGS)


@pytest.fixture(scope="module")
def values():
    """Scores of the pool, with ties."""
    return np.random.default_rng(0).integers(0, 8, POOL).astype(np.float32)


@pytest.fixture(scope="module")
def domains():
    """Of the pool: 25, 12 and 3 sequences."""
    return np.repeat([1, 0, 2], [25, 12, 3])[np.random.default_rng(1).permutation(POOL)]


@pytest.fixture(scope="module")
def scores(train, values, domains, tmp_path_factory):
    """The scores of the first sequences; other columns prefer other sequences."""
    path = tmp_path_factory.mktemp("scores")
    columns = {
        "median_k10_zeros": values,
        "mean_loss": -values,
        "domain": domains,
        "sketch": np.arange(POOL),
    }
    write_scores(path, train, columns, shard_size=15)
    return str(path)


@pytest.fixture
def select(scores, train):
    """Returns the ids that a selection of `scores` keeps."""

    def ids(keep_fraction, ranking=HIGHEST, **others):
        return Selection(
            scores=scores, ranking=ranking, keep_fraction=keep_fraction, **others
        ).select(train)

    return ids


@pytest.mark.parametrize("per_domain", [False, True])
@pytest.mark.parametrize("keep_fraction", SHARES)
@each_ranking
def test_the_share_asked_for_is_kept_of_what_was_scored(
    ranking, keep_fraction, per_domain, select, train
):
    ids = select(keep_fraction, ranking, per_domain=per_domain)
    assert len(ids) == len(set(ids)) == round(keep_fraction * POOL)
    assert ids.dtype == np.int64
    assert (np.diff(ids) > 0).all()
    assert ids[0] >= 0
    assert ids[-1] < POOL < len(train)
    np.testing.assert_array_equal(
        ids, select(keep_fraction, ranking, per_domain=per_domain)
    )


@pytest.mark.parametrize("keep_fraction", SHARES[:3])
def test_what_is_kept_scores_no_less_than_what_is_not(keep_fraction, select, values):
    ids = select(keep_fraction)
    lost = np.setdiff1d(np.arange(POOL), ids)
    assert values[ids].min() >= values[lost].max()


@pytest.mark.parametrize("keep_fraction", SHARES[1:3])
def test_with_quotas_it_scores_no_less_than_what_is_not_of_its_domain(
    keep_fraction, select, values, domains
):
    ids = select(keep_fraction, per_domain=True)
    lost = np.setdiff1d(np.arange(POOL), ids)
    for domain in range(3):
        best_lost = values[lost][domains[lost] == domain].max()
        assert values[ids][domains[ids] == domain].min() >= best_lost
    kept = np.bincount(domains[ids], minlength=3)
    whole = keep_fraction * np.bincount(domains, minlength=3)
    assert (np.abs(kept - whole) < 1).all()


def test_a_domain_too_small_for_its_share_may_keep_nothing_and_it_is_said(
    scores, train, domains
):
    selection = Selection(
        scores=scores, ranking=HIGHEST, keep_fraction=0.1, per_domain=True
    )
    choice = selection.choose(train)
    # 10 % of 25, 12 and 3 sequences are 2.5, 1.2 and 0.3; one more is to be had.
    assert np.bincount(domains[choice.ids], minlength=3).tolist() == [1, 3, 0]
    name = train.manifest.domains[2]
    assert f"{name} keeps 0 of 3" in choice.warnings()[-1]


def test_of_equal_scores_the_smaller_ids_are_kept(select, values):
    order = sorted(range(POOL), key=lambda i: (-values[i], i))
    for count in range(1, POOL):
        assert select(count / POOL).tolist() == sorted(order[:count])


def test_of_equal_scores_the_smaller_ids_of_a_domain_are_kept(select, values, domains):
    ids = select(0.5, per_domain=True)
    for domain in range(3):
        (of_domain,) = np.nonzero(domains == domain)
        order = sorted(of_domain, key=lambda i: (-values[i], i))
        count = np.count_nonzero(domains[ids] == domain)
        assert ids[domains[ids] == domain].tolist() == sorted(order[:count])


def test_another_column_is_another_selection(select, values):
    lowest = select(0.1, HighestScores(score="mean_loss"))
    assert values[lowest].max() <= np.sort(values)[4]


def test_random_keeps_of_each_domain_what_chance_would(train, tmp_path):
    count = len(train)
    domains = (np.arange(count) % 5 == 0).astype(int)
    write_scores(tmp_path, train, {"mean_loss": np.ones(count), "domain": domains})
    kept = []
    for seed in range(50):
        selection = Selection(
            scores=str(tmp_path), ranking=Random(seed=seed), keep_fraction=0.3
        )
        kept.append(np.count_nonzero(domains[selection.select(train)]))
    expected = 0.3 * domains.sum() * len(kept)
    # Without replacement the variance is below the binomial one.
    assert abs(sum(kept) - expected) < 4 * (expected * 0.7) ** 0.5
    assert len(set(kept)) > 1


# ---- What may not be meant --------------------------------------------------


def test_what_is_odd_is_a_line_each(scores, train, select, caplog):
    choice = Selection(scores=scores, ranking=HIGHEST, keep_fraction=0.05).choose(train)
    pool, domains = choice.warnings()
    assert pool.startswith(f"Only the first 40 of {len(train):,} sequences are scored")
    assert "domains lose more than 90% of their sequences, where 95.0%" in domains
    with caplog.at_level(logging.WARNING):
        select(0.05)
    assert [record.message for record in caplog.records] == [pool, domains]


def test_most_scores_being_0_is_said(train, tmp_path):
    values = np.arange(len(train)) % 5 == 0
    write_scores(tmp_path, train, {"median_k10_zeros": values})
    selection = Selection(scores=str(tmp_path), ranking=HIGHEST, keep_fraction=0.5)
    (line,) = selection.choose(train).warnings()
    assert line.startswith(f"{1 - values.mean():.1%} of the scores are 0")


def test_nothing_odd_is_no_line(train, tmp_path):
    write_scores(tmp_path, train, {"mean_loss": np.arange(len(train)) % 2})
    ranking = HighestScores(score="mean_loss")
    selection = Selection(scores=str(tmp_path), ranking=ranking, keep_fraction=0.5)
    assert selection.choose(train).warnings() == []


@pytest.mark.parametrize(
    "num_kept, said",
    [
        (100, []),
        (99, ["reads 100 rows, and 99 are kept: it repeats each of them 1.01 times"]),
        (20, ["each of them 5.00 times"]),
        (9, ["A batch of 10 rows exceeds the 9 rows"]),
    ],
)
def test_a_selection_too_small_for_its_stage_is_said(num_kept, said):
    lines = stage_warnings(num_kept, num_read=100, batch_size=10)
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


# ---- What is refused --------------------------------------------------------


@pytest.mark.parametrize("keep_fraction", [0.0, -0.1, 1.01])
def test_a_share_that_cannot_be_is_refused(keep_fraction):
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {keep_fraction}"):
        Selection(scores="", ranking=HIGHEST, keep_fraction=keep_fraction)


@each_ranking
def test_keeping_nothing_is_refused(ranking, select):
    with pytest.raises(ValueError, match=r"0\.01 of 40 scored sequences is none"):
        select(0.01, ranking)


@each_ranking
def test_scores_of_other_data_are_refused(ranking, scores, prepared):
    selection = Selection(scores=scores, ranking=ranking, keep_fraction=0.5)
    with pytest.raises(ValueError, match="are of the dataset"):
        selection.select(prepared["val"])


@each_ranking
def test_missing_scores_are_not_keep_everything(ranking, train, tmp_path):
    selection = Selection(scores=str(tmp_path), ranking=ranking, keep_fraction=0.5)
    with pytest.raises(FileNotFoundError, match="No scores at"):
        selection.select(train)


def test_a_score_that_is_no_number_is_refused_by_shard_and_sequence(train, tmp_path):
    ones = {"median_k10_zeros": np.ones(30)}
    scores = write_scores(tmp_path, train, ones, shard_size=20)
    path = tmp_path / "scores-00001-of-00002.npy"
    rows = np.load(path)
    rows["median_k10_zeros"][3] = np.nan
    path.write_bytes(score_shards.to_bytes(rows, scores.manifest, 1))
    selection = Selection(scores=str(tmp_path), ranking=HIGHEST, keep_fraction=0.5)
    with pytest.raises(ValueError, match=rf"{path} holds nan .* of sequence 23"):
        selection.select(train)
    path.write_bytes(score_shards.to_bytes(rows[:5], scores.manifest, 1))
    with pytest.raises(ValueError, match=rf"{path} has \(5,\) scores.* \(10,\)"):
        selection.select(train)


def test_more_scores_than_the_manifest_of_the_scores_says_is_refused(train, tmp_path):
    write_scores(tmp_path, train, {"median_k10_zeros": np.ones(30)})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["count"] = 25
    write_record(tmp_path / "manifest.json", manifest)
    selection = Selection(scores=str(tmp_path), ranking=HIGHEST, keep_fraction=0.5)
    with pytest.raises(ValueError, match=r"\(30,\) scores, and .* \(25,\)"):
        selection.select(train)


@dataclasses.dataclass(frozen=True)
class Given:
    """A ranking of someone else's."""

    values: tuple

    def worth(self, scores, dataset):
        return np.array(self.values)


def test_a_ranking_from_elsewhere_decides_too(select):
    assert select(0.5, Given((0, 3, 1, 2))).tolist() == [1, 3]
    assert select(0.5, Given((0.5, 0.0, -1.0, 2.0))).tolist() == [0, 3]


@pytest.mark.parametrize(
    "numbers",
    [(1, np.nan), (1, -np.inf), ((1,), (2,)), ("a", "b"), (0,) * (POOL + 1)],
)
def test_a_ranking_without_a_number_for_each_is_refused_by_name(numbers, select):
    with pytest.raises(ValueError, match="Given must give up to 40 sequences a finite"):
        select(0.5, Given(numbers))


@each_ranking
def test_a_loader_reads_only_what_is_selected(ranking, scores, prepared_text, train):
    selection = Selection(scores=scores, ranking=ranking, keep_fraction=0.5)
    loader = Loader(
        dataclasses.replace(prepared_text, selection=selection),
        batch_size=4,
        seq_len=16,
        seed=0,
        partitioning=Partitioning(mesh=MeshShape(data=4, model=2).build()),
    )
    ids = np.concatenate([batch_ids(loader, index) for index in range(POOL // 2 // 4)])
    np.testing.assert_array_equal(np.sort(ids), selection.select(train))


def test_a_ranking_that_ranks_nothing_is_refused():
    with pytest.raises(ValueError, match=r"must have a worth\(.* got 'mean_loss'"):
        Selection(scores="unused", ranking="mean_loss", keep_fraction=0.5)

import json
import logging

import numpy as np
import pytest

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.scoring.minhash import SHINGLE, sketches
from salt_jax.data.selecting import near_duplicates
from salt_jax.data.selecting.near_duplicates import NearDuplicates, similarities
from salt_jax.data.selecting.ranking import HighestScores
from salt_jax.data.selecting.selection import Selection
from salt_jax.data.vocabulary import Vocabulary
from tests.data.conftest import VOCABULARY, write_zst
from tests.made_scores import write_scores

SEQ_LEN = 200
NUM_TEXTS, NUM_COPIES = 60, 40


def single_tokens():
    """Words that are a token each, with the space before them."""
    processor = Vocabulary.open(VOCABULARY).codec.processor
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    words = [piece[1:] for piece in pieces if piece[0] == "\u2581"]
    return [word for word in words if word.isalpha() and len(word) > 3]


def write_corpus(folder, texts):
    """Writes texts of words as documents that fill a sequence each, with their end."""
    lines = [
        json.dumps(
            {"text": f" {' '.join(words)}", "meta": {"pile_set_name": f"Part {i % 2}"}}
        )
        for i, words in enumerate(texts)
    ]
    for name in ("train/00", "val", "test"):
        write_zst(folder / f"{name}.jsonl.zst", lines)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Texts, and copies of most of them with 2 % of the tokens changed in one place."""
    rng = np.random.default_rng(0)
    words = single_tokens()
    texts = [list(rng.choice(words, SEQ_LEN - 1)) for _ in range(NUM_TEXTS)]
    for text in texts[:NUM_COPIES]:
        copy = list(text)
        copy[50:54] = rng.choice(words, 4)
        texts.append(copy)
    folder = tmp_path_factory.mktemp("copies")
    write_corpus(folder / "corpus", texts)
    return prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=VOCABULARY,
            output=str(folder / "data"),
            seq_len=SEQ_LEN,
        )
    )["train"]


@pytest.fixture(scope="module")
def tokens(dataset):
    sequences = dataset.read(np.arange(len(dataset)))
    assert (sequences.segments == 1).all()  # A text is a sequence.
    return sequences.tokens


@pytest.fixture(scope="module")
def sketch(tokens):
    return sketches(tokens, np.ones(tokens.shape, bool))


@pytest.fixture(scope="module")
def twins(tokens):
    """The pairs of a text and its copy: int64 [40, 2]."""
    is_same = (tokens[:, None] == tokens[None]).mean(axis=-1) > 0.9
    pairs = np.argwhere(np.triu(is_same, 1))
    assert len(pairs) == NUM_COPIES
    return pairs


@pytest.fixture(scope="module")
def worth(dataset):
    return np.random.default_rng(1).integers(0, 5, len(dataset)).astype(np.float32)


FIND = NearDuplicates(min_similarity=0.8)


def jaccard(first, second):
    """Of the shingles of two rows of tokens, counted one by one."""
    sets = [
        {tuple(row[i : i + SHINGLE]) for i in range(len(row) - SHINGLE + 1)}
        for row in (first.tolist(), second.tolist())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_a_similarity_is_the_share_of_shingles_that_both_have(dataset, tokens, twins):
    a, b = np.concatenate([twins, twins[:, :1].repeat(2, 1), twins[:5] * 0 + [0, 1]]).T
    expected = [jaccard(tokens[i], tokens[j]) for i, j in zip(a, b, strict=True)]
    np.testing.assert_allclose(similarities(dataset, a, b), expected, rtol=1e-6)
    assert max(expected) == 1 and min(expected) == 0


def test_of_a_text_and_its_copy_the_better_stays(dataset, sketch, twins, worth):
    found = FIND.find(worth, sketch, dataset)
    better = {
        max(pair, key=lambda i: (worth[i], -i)): pair for pair in map(tuple, twins)
    }
    assert len(found.dropped) > 0.8 * NUM_COPIES  # The rest share no band.
    for kept, dropped, similarity in zip(
        found.kept, found.dropped, found.similarity, strict=True
    ):
        assert set(better[kept]) == {kept, dropped}
        assert similarity >= 0.8
    assert (np.diff(found.dropped) > 0).all()


def test_what_is_less_alike_than_asked_stays(dataset, sketch, worth):
    # 4 tokens in one place of 200 are 8 of 196 shingles: 188 / 204 = 0.92.
    assert len(NearDuplicates(min_similarity=0.92).find(worth, sketch, dataset).kept)
    strict = NearDuplicates(min_similarity=0.93)
    assert not len(strict.find(worth, sketch, dataset).dropped)


def test_what_only_shares_a_band_is_read_and_stays(dataset, twins, worth):
    # As if every sketch were the same: all pairs are candidates.
    found = FIND.find(worth, np.zeros(len(dataset), np.uint64), dataset)
    assert len(found.dropped) == NUM_COPIES
    pairs = np.sort(np.stack([found.kept, found.dropped], axis=1), axis=1)
    assert {tuple(pair) for pair in pairs} == {tuple(pair) for pair in twins}


def test_a_search_cut_short_says_so(dataset, worth, caplog):
    with caplog.at_level(logging.WARNING):
        sketch = np.zeros(len(dataset), np.uint64)
        FIND.find(worth, sketch, dataset, most_rounds=3)
    assert "after 3 rounds" in caplog.records[0].message


@pytest.mark.parametrize("seed", range(20))
def test_who_is_dropped_is_what_looking_at_the_best_first_finds(seed, monkeypatch):
    """Against a plain loop: in order, each stays unless it is like one that stays."""
    rng = np.random.default_rng(seed)
    size = 60
    alike = rng.random((size, size)) < 0.3
    alike |= alike.T
    monkeypatch.setattr(
        near_duplicates, "similarities", lambda dataset, a, b: alike[a, b] * 1.0
    )
    low, high = rng.integers(0, 15, (2, size), np.uint64)
    worth = rng.integers(0, 20, size).astype(np.float32)
    sketch = low | high << np.uint64(32)
    found = NearDuplicates(min_similarity=1.0).find(worth, sketch, None)
    stays = []
    for i in sorted(range(size), key=lambda i: (-worth[i], i)):
        if not any(
            alike[i, j] and (low[i] == low[j] or high[i] == high[j]) for j in stays
        ):
            stays.append(i)
    assert sorted(set(range(size)) - set(found.dropped.tolist())) == sorted(stays)
    assert set(found.kept.tolist()) <= set(stays)


# ---- In a selection ---------------------------------------------------------


def selection(folder, keep_fraction, near_duplicates=FIND, **others):
    return Selection(
        scores=str(folder),
        ranking=HighestScores(score="mean_loss"),
        keep_fraction=keep_fraction,
        near_duplicates=near_duplicates,
        **others,
    )


@pytest.mark.parametrize("per_domain", [False, True])
@pytest.mark.parametrize("keep_fraction", [0.1, 0.33, 0.6])
def test_the_number_kept_is_exact_and_no_two_kept_are_alike(
    keep_fraction, per_domain, dataset, sketch, worth, tmp_path
):
    domains = np.zeros(len(dataset))
    write_scores(
        tmp_path, dataset, {"mean_loss": worth, "sketch": sketch, "domain": domains}
    )
    chosen = selection(tmp_path, keep_fraction, per_domain=per_domain).choose(dataset)
    assert len(chosen.ids) == round(keep_fraction * len(dataset))
    assert not np.isin(chosen.ids, chosen.duplicates.dropped).any()
    others = np.setdiff1d(np.arange(len(dataset)), chosen.ids)
    distinct = np.setdiff1d(others, chosen.duplicates.dropped)
    assert worth[chosen.ids].min() >= worth[distinct].max()


def test_more_than_there_are_distinct_ones_is_refused(dataset, worth, tmp_path):
    same = np.zeros(len(dataset), np.uint64)
    write_scores(tmp_path, dataset, {"mean_loss": worth, "sketch": same})
    said = "of 100 scored sequences is 70, and without near-duplicates there are 60"
    with pytest.raises(ValueError, match=said):
        selection(tmp_path, 0.7).select(dataset)
    assert len(selection(tmp_path, 0.6).select(dataset)) == NUM_TEXTS


def test_domains_share_by_what_is_distinct_in_them(dataset, twins, worth, tmp_path):
    same, domains = np.zeros((2, len(dataset)), int)
    domains[twins] = 1
    columns = {"mean_loss": worth, "sketch": same, "domain": domains}
    write_scores(tmp_path, dataset, columns)
    ids = selection(tmp_path, 0.6, per_domain=True).select(dataset)
    assert np.bincount(domains[ids]).tolist() == [NUM_TEXTS - NUM_COPIES, NUM_COPIES]


def test_where_none_are_alike_nothing_changes(dataset, sketch, twins, worth, tmp_path):
    unlike = sketch.copy()
    unlike[twins[:, 0]] += np.uint64((1 << 33) + 1)
    write_scores(tmp_path, dataset, {"mean_loss": worth, "sketch": unlike})
    chosen = selection(tmp_path, 0.5).choose(dataset)
    assert not len(chosen.duplicates.dropped)
    plain = selection(tmp_path, 0.5, near_duplicates=None).select(dataset)
    np.testing.assert_array_equal(chosen.ids, plain)


@pytest.mark.parametrize("min_similarity", [0.0, 1.1])
def test_a_similarity_that_cannot_be_is_refused(min_similarity):
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {min_similarity}"):
        NearDuplicates(min_similarity=min_similarity)

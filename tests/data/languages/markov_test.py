"""Languages with a known truth: what is drawn, and that it is the truth."""

import dataclasses

import numpy as np
import pytest

from salt_jax.data import embedded
from salt_jax.data.languages.symbols import symbols_vocabulary
from salt_jax.data.vocabulary import Vocabulary
from tests.known_language import language

SEQ_LEN = 12


def read(data, numbers, *, seed=0):
    return data.open_rows(seq_len=SEQ_LEN, seed=seed).read(np.array(numbers))


@pytest.mark.parametrize("order", [1, 2])
def test_the_frequencies_of_what_is_read_are_the_truth(order, tmp_path):
    data = language(tmp_path, size=4, order=order)
    rows, truth = read(data, np.arange(4000)), data.truth()
    counts_CV = np.zeros(truth.probabilities_CV.shape)
    np.add.at(counts_CV, (truth.contexts(rows.tokens_BL), rows.targets_BL), 1)
    counts_C1 = counts_CV.sum(axis=-1, keepdims=True)
    expected_CV = counts_C1 * truth.probabilities_CV
    deviation_CV = np.sqrt(expected_CV * (1 - truth.probabilities_CV))
    assert np.all(np.abs(counts_CV - expected_CV) <= 4 * deviation_CV)
    assert counts_C1.max() > 4000


def test_a_row_depends_on_its_number_alone(tmp_path):
    data = language(tmp_path, size=8)
    whole = read(data, np.arange(20))
    some = read(data, [17, 3, 3])
    np.testing.assert_array_equal(some.targets_BL, whole.targets_BL[[17, 3, 3]])
    np.testing.assert_array_equal(some.tokens_BL, whole.tokens_BL[[17, 3, 3]])


@pytest.mark.parametrize("changed", ["number", "seed", "split", "language"])
def test_other_rows_are_other_text(changed, tmp_path):
    data = language(tmp_path, size=8)
    others = {
        "number": lambda: read(data, [6]),
        "seed": lambda: read(data, [5], seed=1),
        "split": lambda: read(dataclasses.replace(data, split="val"), [5]),
        "language": lambda: read(dataclasses.replace(data, seed=1), [5]),
    }
    assert np.any(read(data, [5]).targets_BL != others[changed]().targets_BL)


def test_a_model_reads_the_targets_behind_the_begin_token(tmp_path):
    data = language(tmp_path, size=8, order=2)
    rows = read(data, np.arange(500))
    assert np.all(rows.tokens_BL[:, 0] == 0)
    np.testing.assert_array_equal(rows.tokens_BL[:, 1:], rows.targets_BL[:, :-1])
    assert np.all(rows.targets_BL > 0), "the begin token was written"
    contexts_BL = data.truth().contexts(rows.tokens_BL)
    assert np.all(contexts_BL[:, 0] == 0)
    before_BL = rows.tokens_BL[:, :-1] * 8 + rows.tokens_BL[:, 1:]
    np.testing.assert_array_equal(contexts_BL[:, 1:], before_BL)


def test_a_lower_concentration_is_more_predictable(tmp_path):
    entropies = [
        language(tmp_path, size=8, concentration=x).truth().entropies.mean()
        for x in (0.05, 0.5, 50.0)
    ]
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(np.log(7), rel=0.02)


def test_fingerprints_tell_languages_splits_and_seeds_apart(tmp_path):
    data = language(tmp_path, size=4)
    rows = [
        data.open_rows(seq_len=4, seed=0),
        data.open_rows(seq_len=4, seed=1),
        dataclasses.replace(data, split="val").open_rows(seq_len=4, seed=0),
        dataclasses.replace(data, seed=1).open_rows(seq_len=4, seed=0),
    ]
    assert len({x.fingerprint() for x in rows}) == 4
    again = data.open_rows(seq_len=4, seed=0)
    assert again.fingerprint() == rows[0].fingerprint()


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"order": 0}, "order must be positive, got 0"),
        ({"concentration": 0.01}, "concentration must be at least 0.05, got 0.01"),
        ({"concentration": float("nan")}, "got nan"),
    ],
)
def test_nonsense_is_refused(fields, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(language(tmp_path, size=4), **fields)


def test_a_table_that_would_be_too_large_is_refused(tmp_path):
    with pytest.raises(ValueError, match="order 7 over 16 tokens .* 4,294,967,296"):
        language(tmp_path, size=16, order=7).truth()


def test_the_embedded_vocabulary_is_that_of_32_symbols():
    path = "embedded:tokenizer/symbols_32.json"
    assert embedded.resolve(path).read_bytes() == symbols_vocabulary(32)
    vocabulary = Vocabulary.open(path)
    assert vocabulary.size == 32
    assert vocabulary.decode([0, 1, 2, 31, 0]) == "abE"
    assert vocabulary.encode("abE") == [1, 2, 31]
    assert vocabulary.byte_lengths().tolist() == [0] + [1] * 31


def test_a_vocabulary_of_one_symbol_is_refused():
    with pytest.raises(ValueError, match="2 to 4,096 tokens, got 1"):
        symbols_vocabulary(1)

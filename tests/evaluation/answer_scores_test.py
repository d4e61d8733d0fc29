import pytest

from salt_jax.evaluation.answer_scores import (
    METRICS,
    exact_match,
    f1,
    mean_scores,
    scorer,
)

# Of nltk, whose stemmer rouge_score imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "answer, wanted, expected",
    [
        ("K2  8,611 m\n", "K2 8,611 m", 1),
        ("-1", "1", 0),
        ("paris", "Paris", 0),
        ("0.5", "0.50", 0),
        ("", "", 1),
        ("", "1", 0),
    ],
)
def test_exact_match_overlooks_white_space_and_nothing_else(answer, wanted, expected):
    assert exact_match(answer, wanted) == expected


@pytest.mark.parametrize(
    "answer, wanted, expected",
    [
        ("copper, gold", "gold (placer), copper", 0.8),  # 2 of 2 and of 3.
        ("gold gold", "gold", 2 / 3),
        ("gold gold", "gold gold", 1.0),
        ("-1", "1", 0.0),
        ("The End.", "the end", 1.0),
        ("", "gold", 0.0),
        ("...", "", 1.0),
    ],
)
def test_f1_compares_words_as_a_bag(answer, wanted, expected):
    assert f1(answer, wanted) == pytest.approx(expected)


def test_rouge_is_the_f_measure_of_one_pairs_and_the_order_of_words():
    found = scorer()("the cat sat here", "the cat ran here today")
    # 3 words of 4 and of 5; 1 pair of 3 and of 4; "the cat here" of 4 and of 5.
    expected = {"rouge1": 6 / 9, "rouge2": 2 / 7, "rougeL": 6 / 9}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    backwards = scorer()("here sat cat the", "the cat sat here")
    assert (backwards["rouge1"], backwards["rougeL"]) == (1.0, 0.25)


def test_a_score_has_every_metric():
    assert scorer()("a", "a") == dict.fromkeys(METRICS, 1.0) | {"rouge2": 0.0}


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("Add 2 and 2. #### 4", 1),
        ("#### 5 no, #### 4", 1),
        ("#### 4", 1),
        ("Add 2 and 2. #### 5", 0),
        ("4", 0),
    ],
)
def test_of_an_answer_that_reasons_only_its_last_result_counts(answer, expected):
    score = scorer("####")(answer, "Two and two. #### 4")
    assert (score["exact_match"], score["f1"]) == (expected, expected)
    assert score["rouge1"] < 1  # Of the whole answer.


def test_a_wanted_answer_without_a_result_is_compared_whole():
    assert scorer("####")("four", "four")["exact_match"] == 1


def test_means_are_over_questions():
    scores = [scorer()(answer, "one two") for answer in ("one two", "two", "three")]
    assert mean_scores(scores)["exact_match"] == pytest.approx(1 / 3)
    assert mean_scores(scores)["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)

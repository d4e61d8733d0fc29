import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_jax import gin_config
from salt_jax.data.reading.objectives import (
    CausalLM,
    Mixture,
    PrefixLM,
    SpanCorruption,
    mixture_of,
)
from tests.data.ul2 import is_sentinel, text_of

DENOISERS = [
    CausalLM(),
    PrefixLM(),
    PrefixLM(mean_share=0.5),
    PrefixLM(mean_share=0.75),
    PrefixLM(mean_share=0.99),
    SpanCorruption(),
    SpanCorruption(rate=0.5, mean_length=32.0),
    SpanCorruption(rate=0.5, mean_length=1.0),
    SpanCorruption(rate=0.9, mean_length=9.0),
    SpanCorruption(rate=0.3, mean_length=1.7),
]
CORRUPTIONS = [x for x in DENOISERS if isinstance(x, SpanCorruption)]
NUM_EXAMPLES = 100_000
MANY_SENTINELS = np.arange(4096, 4096 + 4000, dtype=np.int32)

each_denoiser = pytest.mark.parametrize("denoiser", DENOISERS, ids=str)
each_corruption = pytest.mark.parametrize("denoiser", CORRUPTIONS, ids=str)


def make_example(denoiser, num_tokens, seed=0):
    tokens = np.arange(num_tokens, dtype=np.int32)
    tokens.flags.writeable = False
    draw = np.random.default_rng(seed)
    sentinels = MANY_SENTINELS[: denoiser.num_sentinels(num_tokens)]
    return denoiser.denoise(tokens, draw, sentinels)


def assert_equally_likely(values, outcomes):
    """Chi-square of the counts of `outcomes` in `values`, to five sigmas."""
    counts = np.array([np.sum(values == outcome) for outcome in outcomes])
    assert counts.sum() == len(values)
    expected = len(values) / len(outcomes)
    freedom = len(outcomes) - 1
    chi_square = np.sum((counts - expected) ** 2) / expected
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@each_denoiser
@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(1, 1500), seed=st.integers(0, 2**32))
def test_inputs_and_targets_give_the_text_back(denoiser, num_tokens, seed):
    inputs, targets = make_example(denoiser, num_tokens, seed)
    assert inputs.dtype == targets.dtype == np.int32
    assert len(targets) >= 1
    assert text_of_many(inputs, targets) == list(range(num_tokens))


def text_of_many(inputs, targets):
    """`text_of`, with more sentinels than a vocabulary has: none, and as text."""
    rename = lambda tokens: [int(x) for x in tokens]
    spans = np.split(targets, np.flatnonzero(targets >= 4096))[1:]
    if not spans:
        return rename(inputs) + rename(targets)
    taken = {int(span[0]): span[1:].tolist() for span in spans}
    assert len(taken) == len(spans)
    return [y for x in rename(inputs) for y in (taken.pop(x) if x >= 4096 else [x])]


@each_denoiser
@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_the_shortest_pieces_are_examples_too(denoiser, num_tokens):
    inputs, targets = make_example(denoiser, num_tokens)
    assert len(targets) >= 1
    assert text_of_many(inputs, targets) == list(range(num_tokens))


def test_a_causal_example_has_targets_only():
    inputs, targets = make_example(CausalLM(), 7)
    assert (len(inputs), targets.tolist()) == (0, list(range(7)))


@pytest.mark.parametrize("mean_share", [0.25, 0.5, 0.75])
def test_prefixes_have_every_length_around_the_mean_as_often(mean_share):
    num_tokens = 41
    draw = np.random.default_rng(0)
    tokens, none = np.zeros(num_tokens, np.int32), np.zeros(0, np.int32)
    denoiser = PrefixLM(mean_share=mean_share)
    lengths = np.array(
        [len(denoiser.denoise(tokens, draw, none).inputs) for _ in range(NUM_EXAMPLES)]
    )
    longest = min(int(2 * mean_share * num_tokens), num_tokens - 1)
    shortest = {0.25: 0, 0.5: 0, 0.75: 20}[mean_share]
    assert_equally_likely(lengths, range(shortest, longest + 1))
    sigma = lengths.std() / np.sqrt(NUM_EXAMPLES)
    assert abs(lengths.mean() - (shortest + longest) / 2) < 5 * sigma
    assert abs(lengths.mean() / num_tokens - mean_share) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "rate, mean_length, num_tokens, num_spans",
    [(0.15, 3.0, 40, 2), (0.5, 32.0, 128, 2)],
)
def test_over_many_examples_spans_have_the_rate_the_mean_and_random_lengths(
    rate, mean_length, num_tokens, num_spans
):
    denoiser = SpanCorruption(rate=rate, mean_length=mean_length)
    tokens = np.arange(num_tokens, dtype=np.int32)
    draw = np.random.default_rng(0)
    sentinels = MANY_SENTINELS[:num_spans]
    targets = np.stack(
        [denoiser.denoise(tokens, draw, sentinels).targets for _ in range(NUM_EXAMPLES)]
    )
    is_taken = ~is_sentinel(targets)
    num_taken = is_taken.sum()
    assert num_taken / (NUM_EXAMPLES * num_tokens) == rate
    assert num_taken / is_sentinel(targets).sum() == mean_length
    # Two lengths that add up: the first of them is anything, as often.
    first = np.argmax(targets == sentinels[1], axis=1) - 1
    assert_equally_likely(first, range(1, round(rate * num_tokens)))
    # And so is the kept text before them.
    kept = round((1 - rate) * num_tokens)
    assert_equally_likely(targets[:, 1], range(1, kept))


@each_corruption
@pytest.mark.parametrize("num_tokens", [64, 500, 1280])
def test_text_is_kept_and_taken_out_in_turns_and_ends_with_what_is_taken(
    denoiser, num_tokens
):
    inputs, targets = make_example(denoiser, num_tokens)
    num_spans = denoiser.num_sentinels(num_tokens)
    assert num_spans >= 1
    assert targets[0] == inputs[-1 if num_spans == 1 else np.argmax(is_many(inputs))]
    assert inputs[0] == 0 and is_many(inputs[-1])
    assert targets[-1] == num_tokens - 1
    # No two sentinels side by side, in the order of the vocabulary, once in each.
    for side in (inputs, targets):
        assert side[is_many(side)].tolist() == MANY_SENTINELS[:num_spans].tolist()
        assert np.all(np.diff(np.flatnonzero(is_many(side))) > 1)


def is_many(tokens):
    return np.asarray(tokens) >= 4096


@pytest.mark.parametrize(
    "num_tokens, num_noise, num_spans", [(20, 3, 1), (100, 15, 5), (1164, 175, 58)]
)
def test_the_share_of_a_piece_that_is_taken_out_is_the_rate(
    num_tokens, num_noise, num_spans
):
    inputs, targets = make_example(SpanCorruption(), num_tokens)
    assert len(inputs) == num_tokens - num_noise + num_spans
    assert len(targets) == num_noise + num_spans


@each_corruption
@pytest.mark.parametrize("num_tokens", [1, 2, 19, 300])
def test_a_piece_that_no_span_falls_to_is_learnt_as_plain_text(denoiser, num_tokens):
    tokens = np.arange(num_tokens, dtype=np.int32)
    draw = np.random.default_rng(0)
    inputs, targets = denoiser.denoise(tokens, draw, MANY_SENTINELS[:0])
    assert (inputs.tolist(), targets.tolist()) == ([], tokens.tolist())


@each_corruption
@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(1, 40), num_sentinels=st.integers(0, 4))
def test_any_piece_can_be_given_any_number_of_sentinels(
    denoiser, num_tokens, num_sentinels
):
    tokens = np.arange(num_tokens, dtype=np.int32)
    draw = np.random.default_rng(0)
    example = denoiser.denoise(tokens, draw, MANY_SENTINELS[:num_sentinels])
    assert text_of_many(*example) == tokens.tolist()
    assert np.sum(is_many(example.targets)) == min(num_sentinels, num_tokens // 2)


@each_denoiser
@settings(max_examples=60, deadline=None)
@given(row_len=st.integers(4, 4096))
def test_a_row_is_full_of_its_capacity_and_one_token_more_would_not_fit(
    denoiser, row_len
):
    room_for = lambda n: n + 2 * denoiser.num_sentinels(n)
    capacity = denoiser.capacity(row_len)
    assert row_len - 2 <= room_for(capacity) <= row_len < room_for(capacity + 1)
    made = sum(map(len, make_example(denoiser, capacity)))
    assert row_len - 4 <= made <= room_for(capacity)


@each_denoiser
def test_more_text_never_needs_fewer_sentinels_and_no_text_needs_none(denoiser):
    needed = [denoiser.num_sentinels(n) for n in range(3000)]
    assert needed[0] == 0 and needed == sorted(needed)


def test_the_number_of_spans_is_rounded_and_without_the_error_of_floats():
    # 0.15 / 3.0 in floating point is a little less than a twentieth.
    assert [SpanCorruption().num_sentinels(n) for n in (9, 10, 29, 30)] == [0, 1, 1, 2]


def test_a_row_of_the_papers_length_needs_58_sentinels():
    assert SpanCorruption().capacity(1280) == 1164
    assert SpanCorruption().num_sentinels(1164) == 58
    assert SpanCorruption(rate=0.5, mean_length=32.0).capacity(1280) == 1242


@each_denoiser
def test_an_example_depends_on_its_draws_alone(denoiser):
    again = make_example(denoiser, 300, seed=5)
    for one, other in zip(make_example(denoiser, 300, seed=5), again, strict=True):
        np.testing.assert_array_equal(one, other)
    if denoiser.has_prefix and denoiser != SpanCorruption(rate=0.5, mean_length=1.0):
        others = [make_example(denoiser, 300, seed=seed).inputs for seed in range(4)]
        assert len({tuple(inputs) for inputs in others}) > 1


def test_a_mixture_has_prefixes_where_one_of_its_denoisers_has():
    weights = (1, 1)
    mixture = Mixture(denoisers=(CausalLM(), PrefixLM()), weights=weights)
    assert mixture.has_prefix
    assert not Mixture(denoisers=(CausalLM(), CausalLM()), weights=weights).has_prefix


def test_a_denoiser_alone_is_a_mixture_of_one():
    mixture = mixture_of(PrefixLM())
    assert (mixture.denoisers, mixture.weights) == ((PrefixLM(),), (1,))
    assert mixture_of(mixture) is mixture


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (PrefixLM, {"mean_share": 0.0}, "mean_share must be above 0 .* got 0.0"),
        (PrefixLM, {"mean_share": 1.0}, "below 1, got 1.0"),
        (PrefixLM, {"mean_share": float("nan")}, "got nan"),
        (SpanCorruption, {"rate": 0.0}, "got rate=0.0"),
        (SpanCorruption, {"rate": 1.0}, "got rate=1.0"),
        (SpanCorruption, {"mean_length": 0.5}, "mean_length=0.5"),
        (SpanCorruption, {"rate": 0.8}, "rate=0.8 with mean_length=3.0 leaves less"),
        (Mixture, {"denoisers": (), "weights": ()}, "got 0 weights for 0"),
        (Mixture, {"weights": (6, 2)}, "got 2 weights for 1 denoisers"),
        (Mixture, {"weights": (0,)}, r"CausalLM\(.*\) has 0"),
        (Mixture, {"weights": (-2,)}, r"CausalLM\(.*\) has -2"),
        (Mixture, {"weights": (0.5,)}, r"whole numbers .* has 0.5"),
    ],
)
def test_a_denoiser_that_cannot_be_is_refused_with_its_numbers(kind, fields, message):
    if kind is Mixture:
        fields = {"denoisers": (CausalLM(),)} | fields
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_text_of_gives_back_what_this_file_corrupts():
    # The way back that other tests use is itself tried here.
    inputs, targets = make_example(SpanCorruption(), 200)
    assert text_of(inputs.tolist(), targets.tolist()) == list(range(200))
    shifted = dataclasses.replace(SpanCorruption(), rate=0.3)
    inputs, targets = make_example(shifted, 200)
    assert text_of(inputs.tolist(), targets.tolist()) == list(range(200))


@pytest.mark.parametrize(
    "mean_share, expected",
    [(0.25, (0.73, 0.18, 0.02, 0.06)), (0.75, (0.83, 0.07, 0.03, 0.07))],
)
def test_the_mixture_of_ul2_has_these_shares_of_the_counted_targets(
    mean_share, expected
):
    # docs/data.md and gin/shared/ul2.gin have these numbers.
    overrides = [f"MEAN_PREFIX_SHARE = {mean_share}"]
    experiment = gin_config.load(["gin/tiny_ul2.gin"], overrides)
    mixture = experiment.stages[0].data.objective
    targets_of_text = []
    for denoiser, weight in zip(mixture.denoisers, mixture.weights, strict=True):
        num_tokens = denoiser.capacity(1280)
        made = [make_example(denoiser, num_tokens, seed).targets for seed in range(200)]
        share = np.mean([len(targets) for targets in made]) / num_tokens
        targets_of_text.append(weight * share)
    shares = np.array(targets_of_text) / np.sum(targets_of_text)
    np.testing.assert_allclose(shares, expected, atol=0.006)

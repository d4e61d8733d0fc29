import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_jax.data.reading.objectives import CausalLM, Mixture, PrefixLM, SpanCorruption
from salt_jax.data.reading.row_plan import RowPlan

UL2 = Mixture(
    denoisers=(
        CausalLM(),
        PrefixLM(),
        SpanCorruption(),
        SpanCorruption(rate=0.5, mean_length=32.0),
    ),
    weights=(6, 2, 1, 1),
)


def plan_of(num_sequences, seq_len=1280, mixture=UL2, seed=3):
    return RowPlan(
        num_sequences=num_sequences,
        seq_len=seq_len,
        capacities=[denoiser.capacity(seq_len) for denoiser in mixture.denoisers],
        weights=mixture.weights,
        seed=seed,
    )


@st.composite
def plans(draw):
    """Plans of a few denoisers, with epochs of a fraction of a group to some groups."""
    seq_len = draw(st.integers(2, 40))
    kinds = draw(st.integers(1, 4))
    lists = lambda elements: st.lists(elements, min_size=kinds, max_size=kinds)
    return RowPlan(
        num_sequences=draw(st.integers(1, 1500)),
        seq_len=seq_len,
        capacities=draw(lists(st.integers(max(1, seq_len // 3), 2 * seq_len))),
        weights=draw(lists(st.integers(1, 9))),
        seed=draw(st.integers(-5, 2**70)),
    )


def epoch_of(plan, epoch=0):
    numbers = np.arange(plan.rows_per_epoch) + epoch * plan.rows_per_epoch
    return plan.texts(numbers)


@settings(max_examples=60, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 10**6))
def test_the_rows_of_an_epoch_hold_every_token_once_and_no_more_than_fits(plan, epoch):
    kinds, begins, ends = epoch_of(plan, epoch)
    assert np.all(begins < ends)
    assert np.all(ends - begins <= np.array(plan.capacities)[kinds])
    order = np.argsort(begins)
    edges = np.append(begins[order], (epoch + 1) * plan.num_sequences * plan.seq_len)
    assert edges[0] == epoch * plan.num_sequences * plan.seq_len
    np.testing.assert_array_equal(ends[order], edges[1:])


@settings(max_examples=60, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 10**6))
def test_each_denoiser_gets_its_share_of_the_sequences_whole(plan, epoch):
    kinds, begins, ends = epoch_of(plan, epoch)
    tokens = np.bincount(kinds, ends - begins, minlength=len(plan.weights))
    np.testing.assert_array_equal(tokens / plan.seq_len, plan.sequences_of_kinds)
    shares = np.array(plan.weights) / sum(plan.weights)
    assert np.all(np.abs(plan.sequences_of_kinds - shares * plan.num_sequences) < 1)


@settings(max_examples=30, deadline=None)
@given(plan=plans(), seed=st.integers(0, 2**32))
def test_a_row_depends_on_its_number_and_not_on_what_it_is_asked_with(plan, seed):
    numbers = np.random.default_rng(seed).integers(0, 5 * plan.rows_per_epoch, 20)
    together = np.stack(plan.texts(numbers))
    alone = [np.stack(plan.texts(numbers[i : i + 1])) for i in range(len(numbers))]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


def test_at_the_papers_length_the_rows_are_more_than_99_percent_full():
    plan = plan_of(num_sequences=426_000_000)
    assert plan.group_size == 260
    assert str(plan.fill)[:6] == "0.9976"
    assert plan_of(num_sequences=260).rows_per_epoch == 156 + 52 + 29 + 27


@pytest.mark.parametrize("seq_len", [512, 1280, 2048])
@pytest.mark.parametrize("num_sequences", [20_000, 20_123])
def test_the_fill_is_what_text_without_breaks_takes(seq_len, num_sequences):
    plan = plan_of(num_sequences, seq_len)
    kinds, begins, ends = epoch_of(plan)
    made = ends - begins
    for kind, denoiser in enumerate(UL2.denoisers):
        if isinstance(denoiser, SpanCorruption):
            lengths, index = np.unique(made, return_inverse=True)
            spans = np.array([denoiser.num_sentinels(int(n)) for n in lengths])[index]
            made = np.where(kinds == kind, made + 2 * spans, made)
    assert made.max() <= seq_len
    assert np.mean(made) / seq_len == pytest.approx(plan.fill, abs=1e-3)
    assert plan.fill > 0.99


def test_over_100_000_rows_the_mixture_has_its_shares_wherever_one_looks():
    num_rows, window = 100_000, 1000
    plan = plan_of(num_sequences=90_000)
    assert plan.rows_per_epoch < num_rows  # So that epochs meet in it.
    kinds = plan.texts(np.arange(num_rows)).kinds
    rows = plan_of(plan.group_size)
    expected = np.bincount(epoch_of(rows).kinds) / rows.rows_per_epoch
    np.testing.assert_allclose(expected, np.array([156, 52, 29, 27]) / 264, rtol=1e-12)
    for size in (num_rows, window):
        windows = kinds.reshape(-1, size)
        for kind, share in enumerate(expected):
            found = np.mean(windows == kind, axis=1)
            assert np.all(np.abs(found - share) < 5 * np.sqrt(share / size))


def test_a_place_in_the_epoch_has_one_denoiser_so_that_the_order_deals_sequences_out():
    plan, num_epochs = plan_of(num_sequences=300), 400
    texts = plan.texts(np.arange(num_epochs * plan.rows_per_epoch))
    # At each place of the stream, the denoiser of its first token.
    order = np.argsort(texts.begins)
    places = np.arange(num_epochs * 300) * plan.seq_len
    at = np.searchsorted(texts.begins[order], places, side="right") - 1
    kinds = texts.kinds[order][at].reshape(num_epochs, 300)
    assert np.all(kinds == kinds[0])
    np.testing.assert_array_equal(np.bincount(kinds[0]), plan.sequences_of_kinds)


def test_rows_of_a_kind_do_not_stand_together():
    kinds = epoch_of(plan_of(num_sequences=260 * 20)).kinds
    is_causal = kinds == 0
    share = is_causal.mean()
    both = np.mean(is_causal[:-1] & is_causal[1:])
    assert abs(both - share**2) < 5 / np.sqrt(len(kinds))


def test_groups_and_epochs_have_row_orders_of_their_own():
    plan = plan_of(num_sequences=520)
    rows = plan_of(num_sequences=260).rows_per_epoch
    orders = plan.texts(np.arange(8 * rows)).kinds.reshape(8, rows)
    assert len(np.unique(orders, axis=0)) == 8
    others = dataclasses.replace(plan, seed=4).texts(np.arange(8 * rows)).kinds
    assert not np.array_equal(others.reshape(8, rows), orders)


def test_a_short_epoch_shares_out_by_the_largest_remainders():
    plan = plan_of(num_sequences=24)
    assert plan.sequences_of_kinds.tolist() == [15, 5, 2, 2]
    assert plan.rows_per_epoch == 15 + 5 + 3 + 3
    assert sorted(np.bincount(epoch_of(plan, 7).kinds).tolist()) == [3, 3, 5, 15]

import dataclasses
import logging
import sys
import threading

import jax
import numpy as np
import pytest

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.denoising import DenoisedRows
from salt_jax.data.reading.fragments import fragments_of
from salt_jax.data.reading.loader import Loader, open_batches
from salt_jax.data.reading.objectives import (
    CausalLM,
    Example,
    Mixture,
    PrefixLM,
    SpanCorruption,
)
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import SequenceRows, SequenceStream
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from tests.data.conftest import make_lines, write_zst
from tests.data.ul2 import (
    SHORT_UL2,
    VOCABULARY,
    Chosen,
    examples_of,
    is_sentinel,
    text_of,
)
from tests.examples import small_model

SEQ_LEN = 32
BATCH_SIZE = 8
ALONE = [
    CausalLM(mode_token="[S]"),
    PrefixLM(),
    SpanCorruption(rate=0.5, mean_length=4.0),
    SHORT_UL2,
]
each_objective = pytest.mark.parametrize(
    "objective", ALONE, ids=lambda x: type(x).__name__
)


@pytest.fixture(scope="module")
def ul2(tmp_path_factory):
    """A split of a whole group of sequences and a part of one, learned as UL2."""
    folder = tmp_path_factory.mktemp("ul2")
    write_zst(folder / "corpus" / "train" / "00.jsonl.zst", make_lines(250, seed=4))
    write_zst(folder / "corpus" / "val.jsonl.zst", make_lines(4, seed=5))
    write_zst(folder / "corpus" / "test.jsonl.zst", make_lines(4, seed=6))
    prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=VOCABULARY,
            output=str(folder / "prepared"),
            seq_len=SEQ_LEN,
        )
    )
    return PreparedText(
        path=str(folder / "prepared"), vocabulary=VOCABULARY, objective=SHORT_UL2
    )


def open_rows(prepared_text, seed=3, **changes):
    return dataclasses.replace(prepared_text, **changes).open_rows(
        seq_len=SEQ_LEN, seed=seed
    )


def epoch_of(rows, epoch=0):
    return rows.read(np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_there_are_a_whole_group_and_a_part_of_one_to_test(ul2):
    plan = open_rows(ul2).plan
    assert plan.num_whole_groups and plan.num_sequences % plan.group_size


@each_objective
@pytest.mark.parametrize("epoch", [0, 3])
def test_inputs_and_targets_of_each_row_give_its_text_back(objective, epoch, ul2):
    rows = open_rows(ul2, objective=objective)
    numbers = np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch
    texts = rows.plan.texts(numbers)
    stream = SequenceStream(rows.dataset, None, seed=3)
    pieces = fragments_of(stream, texts.begins, texts.ends)
    found = [
        (row, text_of(inputs, targets))
        for row, inputs, targets in examples_of(rows.read(numbers))
    ]
    expected = [text.tolist() for text in pieces.texts()]
    assert found == list(zip(pieces.rows.tolist(), expected, strict=True))


@each_objective
def test_every_token_of_an_epoch_comes_back_once(objective, ul2):
    rows = open_rows(ul2, objective=objective)
    sequences = rows.dataset.read(np.arange(len(rows.dataset)))
    expected = np.bincount(sequences.tokens[sequences.segments > 0], minlength=4224)
    batch = epoch_of(rows, epoch=2)
    found = [t for _, *both in examples_of(batch) for t in text_of(*both)]
    np.testing.assert_array_equal(np.bincount(found, minlength=4224), expected)


def test_a_selection_smaller_than_a_group_is_read_whole_each_epoch(ul2):
    chosen = tuple(range(3, 99, 4))
    rows = open_rows(ul2, selection=Chosen(chosen))
    sequences = rows.dataset.read(np.array(chosen))
    expected = np.bincount(sequences.tokens[sequences.segments > 0], minlength=4224)
    one, other = epoch_of(rows, 0), epoch_of(rows, 1)
    for batch in (one, other):
        found = [t for _, *both in examples_of(batch) for t in text_of(*both)]
        np.testing.assert_array_equal(np.bincount(found, minlength=4224), expected)
    assert not np.array_equal(one.targets_BL, other.targets_BL)


@each_objective
def test_the_fill_is_what_the_plan_says(objective, ul2):
    rows = open_rows(ul2, objective=objective)
    padding = len(rows.dataset) * SEQ_LEN - rows.dataset.manifest.num_tokens
    room = rows.rows_per_epoch * SEQ_LEN
    found = np.mean(epoch_of(rows).segments_BL > 0)
    # What is left of it are pieces of a token, which cannot have a span.
    assert rows.plan.fill - 0.005 - padding / room < found <= rows.plan.fill
    assert f"{rows.plan.fill:.1%} full" in str(rows)


def test_spans_have_their_rate_and_their_mean_length_however_short_the_pieces(ul2):
    """Over all pieces of an epoch, which have 10 tokens in the mean."""
    denoiser = SpanCorruption(rate=0.5, mean_length=3.0)
    assert denoiser.capacity(SEQ_LEN) == 24  # A whole number of spans.
    rows = open_rows(ul2, objective=denoiser)
    num_tokens = num_taken = num_spans = 0
    for epoch in range(4):
        for _, inputs, targets in examples_of(epoch_of(rows, epoch)):
            spans = is_sentinel(inputs).sum()
            num_tokens += len(inputs) + len(targets) - 2 * spans
            num_spans += spans
            num_taken += len(targets) - spans if spans else 0
    assert num_spans / num_tokens == pytest.approx(0.5 / 3.0, rel=0.02)
    assert num_taken / num_spans == pytest.approx(3.0, rel=0.1)


def test_opening_says_how_many_rows_there_are_and_how_full(ul2, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        rows = open_rows(ul2)
    assert str(rows) in caplog.text
    assert "at 6:2:1:1" in str(rows) and f"{rows.rows_per_epoch:,} rows" in str(rows)


def test_a_row_is_the_same_whatever_it_is_read_with_and_after_a_restart(ul2):
    rows = open_rows(ul2)
    numbers = np.array([5, 10**9, 5, 10**12 + 7, 0, rows.rows_per_epoch])
    together = rows.read(numbers)
    for index, number in enumerate(numbers):
        alone = open_rows(ul2).read(np.array([number]))
        assert_same(alone, jax.tree.map(lambda x, i=index: x[i : i + 1], together))


def test_a_row_that_holds_padding_only_is_read_alone_too(ul2):
    rows = open_rows(ul2, objective=Greedy(room=1))
    empty = np.flatnonzero(~epoch_of(rows).segments_BL.any(axis=1))
    assert len(empty)
    for number in empty:
        batch = rows.read(np.array([number]))
        assert batch.weights_BL.tolist() == [[0.0] * SEQ_LEN]
        assert np.all(batch.targets_BL == rows.dataset.manifest.pad_id)


def test_another_seed_or_epoch_makes_other_examples(ul2):
    of = lambda **changes: epoch_of(open_rows(ul2, **changes)).tokens_BL
    later = epoch_of(open_rows(ul2), epoch=1).tokens_BL
    assert not np.array_equal(of(), of(seed=4))
    assert not np.array_equal(of(), later)


def test_a_sequence_is_cut_otherwise_in_each_epoch(ul2):
    """One sequence is in the same place always, and only chance can differ."""
    rows = open_rows(ul2, objective=PrefixLM(), selection=Chosen((7,)))
    lengths = {epoch_of(rows, epoch).prefix_BL.sum() for epoch in range(20)}
    assert len(lengths) > 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listening(CausalLM):
    """Notes what it draws for each piece."""

    drawn: list[float] = dataclasses.field(default_factory=list)

    def denoise(self, tokens, draw, sentinels):
        self.drawn.append(draw.random())
        return super().denoise(tokens, draw, sentinels)


def test_every_piece_of_every_epoch_has_chance_of_its_own_and_always_the_same(ul2):
    drawn = []
    for seed in (3, 3, 4):
        objective = Listening()
        rows = open_rows(ul2, seed=seed, objective=objective)
        for epoch in range(2):
            epoch_of(rows, epoch)
        drawn.append(objective.drawn)
    assert drawn[0] == drawn[1]
    both_seeds = drawn[0] + drawn[2]
    assert len(set(both_seeds)) == len(both_seeds) > 1000
    assert abs(np.mean(both_seeds) - 0.5) < 0.05


@pytest.mark.parametrize("num_hosts", [1, 2, 4, 8])
@pytest.mark.parametrize("index", [0, 5, 10_000])
def test_a_batch_is_a_function_of_its_index_for_any_number_of_hosts(
    num_hosts, index, ul2
):
    loader = make_loader(ul2)
    size = BATCH_SIZE // num_hosts
    parts = [
        make_loader(ul2).host_batch(index, slice(host * size, (host + 1) * size))
        for host in range(num_hosts)
    ]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert_same(joined, loader.host_batch(index))


def make_loader(prepared_text):
    return Loader(
        prepared_text,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        seed=3,
        partitioning=Partitioning(mesh=MeshShape(data=4, model=2).build()),
    )


def test_batches_on_the_mesh_have_the_prefix_and_go_on_from_anywhere(ul2):
    loader = make_loader(ul2)
    with open_batches(loader, 30) as batches:
        for index in range(30, 36):
            batch = next(batches)
            assert batch.prefix_BL.dtype == bool and batch.prefix_BL.any()
            assert_same(batch, loader.host_batch(index))


def test_rows_may_be_read_from_several_threads(ul2):
    rows = open_rows(ul2, objective=SpanCorruption(rate=0.5, mean_length=4.0))
    numbers = np.arange(300)
    expected, found = rows.read(numbers), [None] * 4

    def read(thread):
        for _ in range(5):
            found[thread] = rows.read(numbers)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # So that they do get in each other's way.
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for batch in found:
        assert_same(batch, expected)


def test_plain_causal_text_is_read_as_before(ul2):
    assert isinstance(open_rows(ul2, objective=CausalLM()), SequenceRows)
    assert not dataclasses.replace(ul2, objective=CausalLM()).has_prefix
    assert ul2.has_prefix


def test_causal_examples_of_a_mixture_are_rows_as_before(ul2):
    """A mixture of causal examples is in another order, of the same rows."""
    causal = Mixture(denoisers=(CausalLM(),), weights=(1,))
    rows, plain = open_rows(ul2, objective=causal), open_rows(ul2, objective=CausalLM())
    found, expected = epoch_of(rows), epoch_of(plain)
    assert found.prefix_BL is None
    for name in ("tokens_BL", "weights_BL", "segments_BL", "positions_BL"):
        both = [sorted(map(tuple, getattr(batch, name))) for batch in (found, expected)]
        assert both[0] == both[1], name


def test_a_mode_token_stands_where_an_example_begins_and_takes_no_room(ul2):
    denoisers = tuple(
        dataclasses.replace(denoiser, mode_token=mode)
        for denoiser, mode in zip(
            SHORT_UL2.denoisers, (None, "[S]", "[R]", "[X]"), strict=True
        )
    )
    moded = Mixture(denoisers=denoisers, weights=SHORT_UL2.weights)
    rows = open_rows(ul2, objective=moded)
    numbers = np.arange(200)
    batch, plain = rows.read(numbers), open_rows(ul2).read(numbers)
    is_first = (batch.positions_BL == 0) & (batch.segments_BL > 0)
    modes = np.array([0, 4222, 4221, 4223])[rows.plan.texts(numbers).kinds]
    expected = np.where(is_first, modes[:, None], plain.tokens_BL)
    np.testing.assert_array_equal(batch.tokens_BL, expected)
    assert_same(batch.replace(tokens_BL=plain.tokens_BL), plain)


def logits_of(model):
    apply = jax.jit(lambda params, batch: model.apply(params, batch).logits())
    return lambda params, batch: np.asarray(apply(params, batch))


@pytest.fixture(scope="module")
def reading(ul2):
    """A real model, its reading of a batch, and the batch."""
    model, params = small_model(vocab_size=4224)
    batch = open_rows(ul2).read(np.arange(24))
    read = logits_of(model)
    return lambda **changes: read(params, batch.replace(**changes)), batch


def test_a_prefix_sees_all_of_itself(reading):
    read, batch = reading
    tokens_BL = batch.tokens_BL.copy()
    last = {}
    for row, column in zip(*np.nonzero(batch.prefix_BL), strict=True):
        last[row, batch.segments_BL[row, column]] = column
    assert len(last) > 5
    for place in [(row, column) for (row, _), column in last.items()]:
        tokens_BL[place] = (tokens_BL[place] + 7) % 4096
    before, after = read(), read(tokens_BL=tokens_BL)
    changed_BL = np.abs(before - after).max(axis=-1) > 1e-6
    assert changed_BL[batch.prefix_BL].all()


def test_nothing_before_a_target_depends_on_it(reading):
    read, batch = reading
    before = read()
    is_target_read_BL = (batch.segments_BL > 0) & ~batch.prefix_BL
    for column in range(1, SEQ_LEN):
        tokens_BL = batch.tokens_BL.copy()
        rows = np.flatnonzero(is_target_read_BL[:, column])
        tokens_BL[rows, column] = (tokens_BL[rows, column] + 7) % 4096
        after = read(tokens_BL=tokens_BL)
        np.testing.assert_array_equal(after[rows, :column], before[rows, :column])
        assert np.all(np.abs(after - before)[rows, column].max(axis=-1) > 1e-6)


def test_no_position_that_predicts_a_target_can_see_it(reading):
    """What a target is read as comes later, and is not part of the prefix."""
    _, batch = reading
    columns = np.arange(1, SEQ_LEN)
    predicts = (batch.weights_BL[:, :-1] == 1) & (
        batch.segments_BL[:, :-1] == batch.segments_BL[:, 1:]
    )
    np.testing.assert_array_equal(
        batch.tokens_BL[:, columns][predicts], batch.targets_BL[:, :-1][predicts]
    )
    assert not batch.prefix_BL[:, 1:][predicts].any()


def test_packed_neighbors_and_padding_never_see_each_other(reading):
    read, batch = reading
    before = read()
    for segment in range(batch.segments_BL.max() + 1):
        is_own = batch.segments_BL == segment
        changed = np.where(is_own, (batch.tokens_BL + 7) % 4096, batch.tokens_BL)
        after = read(tokens_BL=changed)
        np.testing.assert_array_equal(after[~is_own], before[~is_own])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """A user's denoiser, of any behavior."""

    room: int = SEQ_LEN
    sentinels: int = 0
    shares: bool = True
    repeats: int = 1
    mode_token: str | None = None
    has_prefix = True

    def capacity(self, row_len):
        return self.room

    def num_sentinels(self, num_tokens):
        return min(num_tokens, self.sentinels) if self.shares else self.sentinels

    def denoise(self, tokens, draw, sentinels):
        assert len(sentinels) <= self.sentinels
        half = len(tokens) // 2
        return Example(tokens[:half], np.repeat(tokens[half:], self.repeats))


@pytest.mark.parametrize("room", [5, 20, SEQ_LEN])
def test_a_users_own_denoiser_is_an_objective(room, ul2):
    mixture = Mixture(denoisers=(Greedy(room=room), CausalLM()), weights=(1, 2))
    rows = open_rows(ul2, objective=mixture)
    sequences = rows.dataset.read(np.arange(len(rows.dataset)))
    found = [
        t for _, *both in examples_of(epoch_of(rows)) for part in both for t in part
    ]
    expected = sequences.tokens[sequences.segments > 0]
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


@pytest.mark.parametrize(
    "objective, message",
    [
        (Greedy(repeats=9), r"Greedy\(.*\) made \d+ tokens of \d+, and a row has 32: "
         "its capacity, 32, must be"),
        (Greedy(room=0), r"32 tokens has room for 0 tokens of text in Greedy"),
        (Greedy(sentinels=1, shares=False), "num_sentinels of Greedy.* be 0 of 0"),
        (Greedy(sentinels=126, room=126), r"Greedy\(.*needs 126 sentinels, "
         r"<extra_id_0> and on, for rows with 126 tokens.*no piece '<extra_id_125>'"),
        (PrefixLM(mode_token="[Q]"), r"no piece '\[Q\]'"),
    ],
)  # fmt: skip
def test_a_denoiser_that_does_not_fit_is_refused_by_name(objective, message, ul2):
    with pytest.raises(ValueError, match=message) as refusal:
        epoch_of(open_rows(ul2, objective=objective))
    assert "\n" not in str(refusal.value)


def test_a_vocabulary_without_sentinels_is_refused_before_anything_is_read(
    prepared_text,
):
    dataset = prepared_text.open(seq_len=16)
    with pytest.raises(ValueError, match=r"needs 3 sentinels.*no piece '<extra_id_0>'"):
        DenoisedRows(
            dataset,
            None,
            seed=0,
            mixture=Mixture(
                denoisers=(SpanCorruption(rate=0.5, mean_length=1.5),), weights=(1,)
            ),
            vocabulary=Vocabulary.open(prepared_text.vocabulary),
        )


def test_too_few_sequences_to_share_out_are_refused(ul2):
    with pytest.raises(ValueError, match=r"3 sequences of .* too few for the shares "
                       r"\(6, 2, 1, 1\): SpanCorruption.*would get none"):  # fmt: skip
        open_rows(ul2, selection=Chosen((1, 2, 3)))

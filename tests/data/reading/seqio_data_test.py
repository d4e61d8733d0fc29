import concurrent.futures
import dataclasses
import itertools
import logging as std_logging

import gin
import jax
import numpy as np
import pytest

from salt_jax import gin_config
from salt_jax.config import Stage
from salt_jax.data.reading import seqio_rows
from salt_jax.data.reading.loader import Loader, open_batches
from salt_jax.data.reading.seqio_data import SeqioData
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.train import train
from tests import runs, stage_tasks

SEQ_LEN = 32
TEXT = SeqioData(
    task="st_text", module="tests.stage_tasks", vocabulary=stage_tasks.VOCABULARY
)
PAIR = dataclasses.replace(TEXT, task="st_pair")
MIX = dataclasses.replace(TEXT, task="st_mix")
FIELDS = ("tokens_BL", "targets_BL", "weights_BL", "segments_BL", "positions_BL")


def open_rows(data, seed=0, seq_len=SEQ_LEN):
    return data.open_rows(seq_len=seq_len, seed=seed)


def open_eight_rows(data):
    """Rows of which eight are kept, or more if they must be."""
    return seqio_rows.SeqioRows(
        open_rows(data).source, seq_len=SEQ_LEN, seed=0, keep_rows=8
    )


def assert_same(one, other):
    for field in dataclasses.fields(one):
        found, expected = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(found, expected, err_msg=field.name)


def ids_of(text):
    vocabulary = Vocabulary.open(stage_tasks.VOCABULARY)
    return [*vocabulary.encode(text), vocabulary.eos_id]


def segments_of(batch):
    """Yields the tokens, targets, weights and prefix of each document of a batch."""
    for row in range(len(batch.tokens_BL)):
        for segment in range(1, batch.segments_BL[row].max() + 1):
            where = batch.segments_BL[row] == segment
            prefix = None if batch.prefix_BL is None else batch.prefix_BL[row][where]
            yield (
                batch.tokens_BL[row][where],
                batch.targets_BL[row][where],
                batch.weights_BL[row][where],
                prefix,
            )


def test_text_fills_rows_and_nothing_of_it_is_lost():
    unshuffled = dataclasses.replace(TEXT, shuffle=False)
    expected = list(itertools.chain(*map(ids_of, stage_tasks.texts())))
    count = 2 * len(expected) // SEQ_LEN
    assert len(expected) % SEQ_LEN
    batch = open_rows(unshuffled).read(np.arange(count))
    assert (batch.weights_BL == 1).all()
    twice = [*expected, *expected]
    np.testing.assert_array_equal(batch.targets_BL.ravel(), twice[: count * SEQ_LEN])


def test_a_document_that_goes_on_in_the_next_row_begins_there_anew():
    batch = open_rows(TEXT).read(np.arange(20))
    assert (batch.segments_BL[:, 0] == 1).all()
    assert (batch.positions_BL[:, 0] == 0).all()
    for tokens, targets, _, _ in segments_of(batch):
        np.testing.assert_array_equal(tokens, [0, *targets[:-1]])


def test_an_example_with_inputs_sees_them_both_ways_and_learns_the_targets():
    unshuffled = dataclasses.replace(PAIR, shuffle=False)
    batch = open_rows(unshuffled).read(np.arange(12))
    texts = stage_tasks.texts(most_words=8)
    found = 0
    for (tokens, targets, weights, prefix), text in zip(
        segments_of(batch), texts, strict=False
    ):
        inputs = ids_of(text[:10])
        learned = ids_of(text)
        np.testing.assert_array_equal(targets, [*inputs, *learned])
        np.testing.assert_array_equal(tokens, [0, *inputs, *learned[:-1]])
        np.testing.assert_array_equal(weights, [0] * len(inputs) + [1] * len(learned))
        seen = len(inputs) + 1
        np.testing.assert_array_equal(prefix, np.arange(len(targets)) < seen)
        found += 1
    assert found > 12


def test_examples_with_inputs_are_whole_and_no_later_one_would_have_fitted():
    batch = open_rows(PAIR).read(np.arange(12))
    lengths = [np.bincount(row[row > 0])[1:] for row in batch.segments_BL]
    for before, after in itertools.pairwise(lengths):
        assert before.sum() <= SEQ_LEN < before.sum() + after[0]


def test_an_example_longer_than_a_row_is_refused_with_its_lengths():
    rows = open_rows(dataclasses.replace(PAIR, task="st_long_pair"))
    with pytest.raises(ValueError, match=r"\d+ inputs and \d+ targets, and a row 32"):
        rows.read(np.arange(50))


def test_lengths_trim_what_is_longer():
    data = dataclasses.replace(
        PAIR, task="st_long_pair", inputs_length=4, targets_length=20
    )
    batch = open_rows(data).read(np.arange(10))
    for _, targets, weights, _ in segments_of(batch):
        assert weights.sum() <= 20 and len(targets) <= 24


@pytest.mark.slow
@pytest.mark.parametrize("data", [TEXT, PAIR, MIX], ids=lambda data: data.task)
def test_rows_are_decided_by_the_task_and_the_seed(data):
    numbers = np.arange(200)  # Several epochs.
    one = open_rows(data, seed=3).read(numbers)
    assert_same(open_rows(data, seed=3).read(numbers), one)
    other = open_rows(data, seed=4).read(numbers)
    assert not np.array_equal(other.targets_BL, one.targets_BL)


def test_epochs_have_the_same_text_in_orders_of_their_own():
    rows = open_rows(PAIR)
    count = stage_tasks.NUM_TEXTS
    examples = [x[1].tobytes() for x in segments_of(rows.read(np.arange(300)))]
    first, second = examples[:count], examples[count : 2 * count]
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_mixture_has_its_rates():
    batch = open_rows(MIX).read(np.arange(400))
    vocabulary = Vocabulary.open(stage_tasks.VOCABULARY)
    text = vocabulary.decode(batch.targets_BL.ravel())
    other = sum(text.count(x) for x in stage_tasks.texts(100, seed=1))
    own = sum(text.count(x) for x in stage_tasks.texts())
    assert other / (own + other) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("first", [0, 17, 130])
def test_opening_later_gives_the_same_rows(first):
    whole = open_rows(TEXT).read(np.arange(140))
    later = open_rows(TEXT).read(np.arange(first, first + 8))
    np.testing.assert_array_equal(later.targets_BL, whole.targets_BL[first : first + 8])


def test_opening_later_says_how_many_rows_it_drops(caplog):
    with caplog.at_level(std_logging.INFO, logger="absl"):
        open_rows(TEXT).read(np.arange(90, 94))
    assert "reading and dropping 90 rows to start at row 90" in caplog.text


def test_threads_that_ask_in_any_order_get_the_same_rows():
    whole = open_rows(TEXT).read(np.arange(160))
    rows = open_rows(TEXT)
    parts = np.random.default_rng(0).permutation(np.arange(160).reshape(40, 4))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(rows.read, parts))
    for part, batch in zip(parts, batches, strict=True):
        np.testing.assert_array_equal(batch.targets_BL, whole.targets_BL[part])


def test_what_is_no_longer_kept_is_read_from_the_beginning(caplog):
    rows = open_eight_rows(TEXT)
    first = rows.read(np.arange(4))
    for begin in range(4, 100, 4):
        rows.read(np.arange(begin, begin + 4))
    with caplog.at_level(std_logging.WARNING, logger="absl"):
        assert_same(rows.read(np.arange(4)), first)
    assert "reading again" in caplog.text


def test_rows_of_other_hosts_between_a_host_s_own_make_it_keep_more(caplog):
    rows = open_eight_rows(TEXT)
    # Two rows of every batch of 16 are ours, and batches are asked for in any order.
    with caplog.at_level(std_logging.WARNING, logger="absl"):
        for batch in (0, 3, 1, 2, 4, 7, 5, 6):
            rows.read(16 * batch + np.arange(2))
    assert "reading again" not in caplog.text


def test_no_more_rows_are_kept_than_said():
    rows = open_eight_rows(TEXT)
    for first in range(0, 100, 2):
        rows.read(np.arange(first, first + 2))
    assert len(rows._kept) <= 32


@pytest.mark.parametrize("num_hosts", [2, 8])
def test_a_batch_is_the_same_for_any_number_of_hosts(num_hosts):
    def open_loader():
        mesh = MeshShape(data=8).build()
        return Loader(
            PAIR,
            batch_size=8,
            seq_len=SEQ_LEN,
            seed=0,
            partitioning=Partitioning(mesh=mesh),
        )

    whole = open_loader().host_batch(3)
    size = 8 // num_hosts
    for host in range(num_hosts):
        part = slice(host * size, (host + 1) * size)
        found = open_loader().host_batch(3, part)
        np.testing.assert_array_equal(found.targets_BL, whole.targets_BL[part])
    assert_same(open_loader().device_batch(3), whole)


def experiment(data):
    stage = Stage(name="only", end_step=6, data=data)
    return runs.experiment("unused", stages=(stage,), seq_len=SEQ_LEN, validation=None)


@pytest.mark.parametrize(
    "data",
    [pytest.param(PAIR, marks=pytest.mark.slow), MIX],
    ids=lambda data: data.task,
)
def test_a_run_on_a_task_that_is_stopped_ends_where_an_unbroken_one_does(
    data, tmp_path
):
    unbroken = train(experiment(data), tmp_path / "unbroken")

    runs.train_until(4, experiment(data), tmp_path / "run")
    begins = []

    def opening(loader, begin_index):
        begins.append(begin_index)
        return open_batches(loader, begin_index)

    resumed = train(experiment(data), tmp_path / "run", open_batches=opening)
    assert begins == [4]
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "st_none"}, "'st_none'"),
        ({"module": "tests.no_such_tasks"}, "tests.no_such_tasks"),
        ({"split": "val"}, r"'st_text' has no split 'val'; it has \['train'\]"),
        ({"task": "st_extra"}, "adds 5 extra_ids"),
        ({"task": "st_bytes"}, "'targets' of 'st_bytes' is of a ByteVocabulary"),
        ({"task": "st_normalized"}, "'targets' of 'st_normalized' changes how"),
        ({"task": "st_odd"}, r"'st_odd' has .*\['notes', 'targets'\]"),
    ],
)
def test_a_task_that_cannot_be_learnt_from_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        open_rows(dataclasses.replace(TEXT, **changes))


def test_a_task_of_another_vocabulary_is_refused_with_both(tmp_path):
    ours = Vocabulary.open(stage_tasks.VOCABULARY)
    other = tmp_path / "other.model"
    other.write_bytes(ours.add_control_pieces(["<extra_id_0>"]))
    data = dataclasses.replace(TEXT, vocabulary=str(other))
    with pytest.raises(ValueError, match=rf"{ours.fingerprint[:12]}.*other\.model"):
        open_rows(data)


def test_tokens_that_the_vocabulary_does_not_have_are_refused():
    rows = open_rows(dataclasses.replace(TEXT, task="st_unknown", shuffle=False))
    with pytest.raises(ValueError, match=r"from 4096 to 4096, .* has 0 to 4095"):
        rows.read(np.arange(2))


def test_examples_without_targets_are_left_out():
    rows = open_rows(dataclasses.replace(TEXT, task="st_no_targets", shuffle=False), 0)
    batch = rows.read(np.arange(1))
    assert set(batch.targets_BL[0].tolist()) == {9}
    assert batch.weights_BL.all()


def test_what_stopped_a_source_is_raised_again():
    rows = open_rows(dataclasses.replace(TEXT, task="st_unknown", shuffle=False))
    for _ in range(2):
        with pytest.raises(ValueError, match="from 4096 to 4096"):
            rows.read(np.arange(2))


def test_a_mixture_of_which_a_task_is_empty_is_refused():
    rows = open_rows(dataclasses.replace(TEXT, task="st_empty_mix"))
    with pytest.raises(ValueError, match="st_empty_mix train .* a task of it none"):
        rows.read(np.arange(40))


def test_a_task_without_examples_is_refused():
    with pytest.raises(ValueError, match="seqio:st_empty train has no example"):
        open_rows(dataclasses.replace(TEXT, task="st_empty")).read(np.arange(2))


def test_how_many_rows_an_epoch_has_is_not_known():
    assert open_rows(TEXT).rows_per_epoch is None


GIN = """
from __gin__ import dynamic_registration
from salt_jax import config
from salt_jax.data.reading import seqio_data

standard/config.Stage.data = @seqio_data.SeqioData()

seqio_data.SeqioData:
  task = 'st_text'
  module = 'tests.stage_tasks'
  vocabulary = 'embedded:tokenizer/spm_4k.model'
"""


def test_gin_builds_it(tmp_path):
    file = tmp_path / "task.gin"
    file.write_text(GIN)
    try:
        data = gin_config.load(["gin/tiny_slm.gin", str(file)]).stages[0].data
    finally:
        gin.clear_config()
    assert data == TEXT


def test_there_is_a_prefix_where_the_task_has_inputs():
    assert [data.has_prefix for data in (TEXT, PAIR, MIX)] == [False, True, False]

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import seqio

from salt_jax.data.reading import seqio_tasks
from salt_jax.data.reading.loader import Loader
from salt_jax.data.reading.objectives import PrefixLM
from salt_jax.data.selecting.ranking import HighestScores
from salt_jax.data.selecting.selection import Selection
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from tests.examples import batch_ids
from tests.made_scores import write_scores

SEQ_LEN = 16
POOL = 50


@pytest.fixture(scope="module")
def values():
    # No two are the same, so that a threshold says how many are kept.
    return np.random.default_rng(1).permutation(POOL).astype(np.float32)


@pytest.fixture(scope="module")
def scores(train, values, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores")
    write_scores(path, train, {"median_k10_zeros": values})
    return str(path)


@pytest.fixture(scope="module")
def selected(prepared_text, scores):
    ranking = HighestScores(score="median_k10_zeros")
    selection = Selection(scores=scores, ranking=ranking, keep_fraction=0.3)
    return dataclasses.replace(prepared_text, selection=selection)


def examples_of(task, **arguments):
    arguments = {"shuffle": False, "split": "train"} | arguments
    return list(task.get_dataset(None, **arguments).as_numpy_iterator())


def ids_of(examples):
    return [int(example["id"]) for example in examples]


def loader_of(prepared_text):
    mesh = MeshShape(data=1, model=8).build()
    return Loader(
        prepared_text,
        batch_size=5,
        seq_len=SEQ_LEN,
        seed=0,
        partitioning=Partitioning(mesh=mesh),
    )


def test_a_task_keeps_what_the_loader_selects(selected):
    loader = loader_of(selected)
    read = np.concatenate([batch_ids(loader, index) for index in range(3)])
    ids = ids_of(examples_of(seqio_tasks.prepared_task(selected, seq_len=SEQ_LEN)))
    assert ids == sorted(read)


def test_keeping_by_score_keeps_what_the_loader_selects(
    prepared_text, scores, values, selected
):
    kept = loader_of(selected).rows.rows_per_epoch
    threshold = float(np.sort(values)[-kept])
    task = seqio_tasks.prepared_task(
        prepared_text,
        seq_len=SEQ_LEN,
        scored=seqio_tasks.ScoreFeature(scores=scores),
        preprocessors=[
            functools.partial(seqio_tasks.keep_by_score, threshold=threshold)
        ],
    )
    expected = examples_of(seqio_tasks.prepared_task(selected, seq_len=SEQ_LEN))
    examples = examples_of(task)
    assert ids_of(examples) == ids_of(expected)
    assert [x["score"] for x in examples] == values[ids_of(examples)].tolist()


def test_an_example_is_the_row_that_the_loader_reads(selected):
    loader = loader_of(selected)
    batch, ids = loader.host_batch(0), batch_ids(loader, 0)
    examples = examples_of(seqio_tasks.prepared_task(selected, seq_len=SEQ_LEN))
    by_id = {int(example["id"]): example for example in examples}
    for row, index in enumerate(ids):
        example = by_id[index]
        for feature, field in {
            "decoder_target_tokens": "targets_BL",
            "decoder_input_tokens": "tokens_BL",
            "decoder_loss_weights": "weights_BL",
            "decoder_segment_ids": "segments_BL",
            "decoder_positions": "positions_BL",
        }.items():
            np.testing.assert_array_equal(example[feature], getattr(batch, field)[row])


def test_seqio_reads_the_task_as_it_is(prepared_text, train):
    dataset = seqio.get_dataset(
        seqio_tasks.prepared_task(prepared_text, seq_len=SEQ_LEN),
        task_feature_lengths={"decoder_target_tokens": SEQ_LEN},
        feature_converter=seqio.PassThroughFeatureConverter(),
        dataset_split="train",
        shuffle=True,
        seed=0,
        num_epochs=2,
    )
    ids = ids_of(dataset.as_numpy_iterator())
    assert sorted(ids) == sorted([*range(len(train)), *range(len(train))])
    assert ids[: len(train)] != list(range(len(train)))


def test_seqios_readers_share_the_examples_out(prepared_text, train):
    task = seqio_tasks.prepared_task(prepared_text, seq_len=SEQ_LEN)
    parts = [
        ids_of(examples_of(task, shard_info=seqio.ShardInfo(index, 3)))
        for index in range(3)
    ]
    assert sorted(itertools.chain(*parts)) == list(range(len(train)))


def test_seqio_has_the_same_vocabulary(prepared_text):
    ours = Vocabulary.open(prepared_text.vocabulary)
    theirs = seqio_tasks.seqio_vocabulary(ours)
    text = "lo! \u2603\n\n the king"
    assert theirs.encode(text) == ours.encode(text)
    assert (theirs.pad_id, theirs.eos_id) == (ours.pad_id, ours.eos_id)


def test_a_task_has_a_name_only_after_it_is_registered(prepared_text):
    assert "our_text" not in seqio.TaskRegistry.names()
    seqio_tasks.register("our_text", prepared_text, seq_len=SEQ_LEN)
    try:
        assert seqio.TaskRegistry.get("our_text").splits == ("train",)
    finally:
        seqio.TaskRegistry.remove("our_text")


def test_a_registered_task_is_read_by_its_name(prepared_text, train):
    seqio_tasks.register("our_text", prepared_text, seq_len=SEQ_LEN)
    try:
        dataset = seqio.get_dataset(
            "our_text",
            task_feature_lengths={"decoder_target_tokens": SEQ_LEN},
            feature_converter=seqio.PassThroughFeatureConverter(),
            dataset_split="train",
            shuffle=False,
        )
        examples = list(dataset.as_numpy_iterator())
    finally:
        seqio.TaskRegistry.remove("our_text")
    tokens = np.stack([x["decoder_target_tokens"] for x in examples])
    np.testing.assert_array_equal(tokens, train.read(np.arange(len(train))).tokens)


def test_another_split_is_refused(prepared_text):
    source = seqio_tasks.prepared_task(prepared_text, seq_len=SEQ_LEN).source
    with pytest.raises(ValueError, match="not 'val'"):
        source.get_dataset("val")


def test_another_sequence_length_is_refused(prepared_text):
    with pytest.raises(ValueError, match="prepared with seq_len=16, not 32"):
        seqio_tasks.prepared_task(prepared_text, seq_len=32)


def test_an_objective_that_a_task_would_leave_out_is_refused(prepared_text):
    prefixed = dataclasses.replace(prepared_text, objective=PrefixLM())
    with pytest.raises(ValueError, match=r"PrefixLM.* would change them"):
        seqio_tasks.prepared_task(prefixed, seq_len=SEQ_LEN)

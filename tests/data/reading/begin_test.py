"""What a model reads before a document is what its vocabulary says."""

import dataclasses
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from salt_jax.data.corpora.seqio_vocabulary import seqio_vocabulary
from salt_jax.data.preparing.prepare import prepare
from salt_jax.data.preparing.verify import verify
from salt_jax.data.reading import seqio_tasks
from salt_jax.data.reading.objectives import Mixture, PrefixLM
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.seqio_data import SeqioData
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.records import write_record
from tests import small_tokenizers, stage_tasks
from tests.data.conftest import SEQ_LEN

BEGIN, END, PAD = 2, 1, 0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The path of a vocabulary that was imported."""
    path = tmp_path_factory.mktemp("imported") / "vocabulary.json"
    tokenizer = small_tokenizers.byte_level()
    roles = {"begin_id": BEGIN, "eos_id": END, "pad_id": PAD}
    return str(small_tokenizers.write(path, tokenizer, **roles))


@pytest.fixture(scope="module")
def imported(preparation, path, tmp_path_factory):
    """The small corpus, prepared with it."""
    output = str(tmp_path_factory.mktemp("imported"))
    own = dataclasses.replace(preparation, vocabulary=path, output=output)
    prepare(own)
    verify(own)
    return PreparedText(path=output, vocabulary=path)


def assert_begins(batch):
    """Checks that every document begins with BEGIN, and goes on as it was."""
    is_first = (batch.positions_BL == 0) & (batch.segments_BL > 0)
    assert is_first.any()
    assert (batch.tokens_BL[is_first] == BEGIN).all()
    is_next = batch.positions_BL > 0
    before_BL = np.roll(batch.targets_BL, 1, axis=1)
    np.testing.assert_array_equal(batch.tokens_BL[is_next], before_BL[is_next])
    assert not (batch.targets_BL[batch.segments_BL > 0] == BEGIN).any()


def test_rows_of_prepared_text_begin_with_the_vocabulary_s_token(imported):
    batch = imported.open_rows(seq_len=SEQ_LEN, seed=0).read(np.arange(40))
    assert_begins(batch)
    assert (batch.targets_BL == END).any()
    assert (batch.targets_BL[batch.segments_BL == 0] == PAD).all()


def test_the_documents_of_an_imported_vocabulary_come_back(imported, path):
    dataset = imported.open(seq_len=SEQ_LEN)
    sequences = dataset.read(np.arange(len(dataset)))
    text = Vocabulary.open(path).decode(sequences.tokens.ravel())
    assert all(word in text for word in ("begat", "\u00dcber", "\u2603"))


def test_denoised_rows_without_a_mode_token_begin_with_it_too(imported):
    objective = Mixture(denoisers=(PrefixLM(),), weights=(1,))
    data = dataclasses.replace(imported, objective=objective)
    batch = data.open_rows(seq_len=SEQ_LEN, seed=0).read(np.arange(20))
    assert_begins(batch)


def test_a_task_of_prepared_text_begins_with_it_too(imported):
    task = seqio_tasks.prepared_task(imported, seq_len=SEQ_LEN)
    (example,) = seqio.get_dataset(
        task,
        task_feature_lengths=None,
        dataset_split="train",
        feature_converter=seqio.PassThroughFeatureConverter(),
        shuffle=False,
    ).take(1)
    assert example["decoder_input_tokens"][0] == BEGIN


def test_data_that_was_prepared_to_begin_otherwise_is_refused(
    own_preparation, path, tmp_path
):
    prepare(dataclasses.replace(own_preparation, vocabulary=path))
    file = tmp_path / "prepared" / "train" / "manifest.json"
    record = json.loads(file.read_text())
    assert record["begin_id"] == BEGIN
    write_record(file, record | {"begin_id": 0})
    data = PreparedText(path=own_preparation.output, vocabulary=path)
    with pytest.raises(
        ValueError, match="began with the token 0, and with .* with 2: "
    ):
        data.open(seq_len=SEQ_LEN)


@pytest.fixture
def task(path):
    """A SeqIO task that tokenizes with the imported vocabulary."""
    theirs = seqio_vocabulary(Vocabulary.open(path))
    stage_tasks.add("begin_text", preprocessors=[stage_tasks.as_targets], of=theirs)
    yield SeqioData(task="begin_text", vocabulary=path, shuffle=False)
    seqio.TaskRegistry.remove("begin_text")


def test_a_seqio_task_of_an_imported_vocabulary_is_read_as_it_is(task, path):
    batch = task.open_rows(seq_len=32, seed=0).read(np.arange(8))
    assert_begins(batch)
    text = Vocabulary.open(path).decode(batch.targets_BL.ravel())
    assert "".join(stage_tasks.texts()).startswith(text)


def test_a_seqio_task_of_another_imported_vocabulary_is_refused_with_both(
    task, path, tmp_path
):
    other = tmp_path / "other.json"
    other.write_bytes(Vocabulary.open(path).add_control_pieces(["<more>"]))
    data = dataclasses.replace(task, vocabulary=str(other))
    with pytest.raises(ValueError, match=r"vocabulary\.json .*other\.json"):
        data.open_rows(seq_len=32, seed=0)


def test_text_that_a_task_tokenizes_can_be_prepared(task, path, tmp_path, preparation):
    own = dataclasses.replace(
        preparation,
        corpus="seqio:begin_text",
        splits=("train",),
        vocabulary=path,
        output=str(tmp_path),
    )
    dataset = prepare(own)["train"]
    sequences = dataset.read(np.arange(len(dataset)))
    tokens = sequences.tokens[sequences.segments > 0]
    documents = np.split(tokens, np.flatnonzero(tokens == END) + 1)[:-1]
    found = [Vocabulary.open(path).decode(document) for document in documents]
    assert sorted(found) == sorted(stage_tasks.texts())


def test_seqio_encodes_and_decodes_as_we_do(path):
    ours = Vocabulary.open(path)
    theirs = seqio_vocabulary(ours)
    text = "the cat \u2603 sat<|end|>"
    tokens = ours.encode(text)
    assert theirs.encode(text) == tokens
    assert theirs.decode([*tokens, END, *tokens]) == text
    assert theirs.encode_tf(tf.constant(text)).numpy().tolist() == tokens
    rows = tf.constant([[*tokens, END, 70], [70, 71, END] + [72] * (len(tokens) - 1)])
    found = [x.decode() for x in theirs.decode_tf(rows).numpy()]
    assert found == [text, ours.decode([70, 71])]
    roles = (theirs.bos_id, theirs.eos_id, theirs.pad_id, theirs.vocab_size)
    assert roles == (BEGIN, END, PAD, ours.size)


def test_seqio_has_one_vocabulary_of_one_file(path, tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_bytes(Vocabulary.open(path).path.read_bytes())
    one, same = (seqio_vocabulary(Vocabulary.open(x)) for x in (path, copy))
    assert one == same and hash(one) == hash(same)
    copy.write_bytes(Vocabulary.open(path).add_control_pieces(["<more>"]))
    assert one != seqio_vocabulary(Vocabulary.open(copy))

"""The real builders of the data sets, their examples being made up."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from salt_jax import gin_config
from salt_jax.data.reading import tfds_records
from salt_jax.data.reading.answers import Answers
from salt_jax.data.vocabulary import Vocabulary

# Of protocol buffers and of resources, in TensorFlow Datasets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.slow,
]

VOCABULARY = "embedded:tokenizer/spm_4k.model"
COUNT = 5
SPLITS = {
    "gsm8k": ("train", "test", "train_socratic", "test_socratic"),
    "xsum": ("train", "validation", "test"),
    "cnn_dailymail": ("train", "validation", "test"),
    "anli/r1": ("train", "validation", "test"),
    "anli/r2": ("train", "validation", "test"),
    "anli/r3": ("train", "validation", "test"),
}
FILES = {
    "gsm8k": "gsm8k",
    "xsum": "xsum",
    "cnn_dailymail": "cnn_dailymail",
    "anli/r1": "anli_r1",
    "anli/r2": "anli_r2",
    "anli/r3": "anli_r3",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """What the builders write about their data sets, without the data."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        # A builder asks for what the web knows of it.
        patch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: 0)
        for name, splits in SPLITS.items():
            builder = tfds.builder(name, data_dir=folder)
            infos = [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[COUNT],
                    num_bytes=0,
                    filename_template=tfds.core.ShardedFileTemplate(
                        data_dir=builder.data_dir,
                        dataset_name=builder.name,
                        split=split,
                        filetype_suffix="tfrecord",
                    ),
                )
                for split in splits
            ]
            builder.info.set_splits(tfds.core.splits.SplitDict(infos))
            builder.data_path.mkdir(parents=True)
            builder.info.write_to_directory(builder.data_path)
    return folder


@pytest.fixture
def mocked(data_dir):
    with tfds.testing.mock_data(num_examples=COUNT, data_dir=data_dir):
        yield data_dir


def of_file(name):
    """Returns the training and validation data of a gin file, on a small vocabulary."""
    experiment = gin_config.load([f"gin/sft_{FILES[name]}.gin"])
    data = (experiment.stages[0].data, experiment.validation.data)
    return [dataclasses.replace(x, vocabulary=VOCABULARY) for x in data]


@pytest.mark.parametrize("name", SPLITS)
def test_every_data_set_is_read_with_the_features_that_its_builder_has(name, mocked):
    for data in of_file(name):
        questions = data.read(seq_len=1280)
        assert len(questions) == COUNT
        assert all(len(x.question) >= 10 and x.answer for x in questions)


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_that_is_evaluated_is_one_that_the_builder_has(name, data_dir):
    experiment = gin_config.load([f"gin/sft_{FILES[name]}.gin"])
    used = [*experiment.validation.answering.splits]
    used += [experiment.stages[0].data.split, experiment.validation.data.split]
    assert {split.partition("[")[0] for split in used} <= {*SPLITS[name]}


def test_the_labels_of_anli_are_words_in_the_order_of_its_classes(mocked):
    train, _ = of_file("anli/r1")
    names = tfds.builder("anli/r1").info.features["label"].names
    meanings = {"e": "true", "n": "neither", "c": "false"}
    assert train.labels == tuple(meanings[name] for name in names)
    records = tfds_records.read("anli/r1", "train", ["label"], data_dir=None)
    answers = [question.answer for question in train.read(seq_len=1280)]
    assert answers == [train.labels[record["label"]] for record in records]


def test_texts_come_as_the_builder_gives_them(mocked):
    found = tfds_records.read("xsum", "test", ["document"], data_dir=None)
    expected = tfds.as_numpy(tfds.load("xsum", split="test"))
    assert [x["document"] for x in found] == [x["document"].decode() for x in expected]


def test_rows_are_made_of_a_data_set(mocked):
    train, _ = of_file("gsm8k")
    rows = train.open_rows(seq_len=256, seed=0)
    batch = rows.read(np.arange(1))
    eos = Vocabulary.open(VOCABULARY).eos_id
    assert (batch.targets_BL[batch.weights_BL > 0] == eos).sum() == COUNT


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            ["reply"],
            "tfds:xsum has no feature 'reply'; it has \\['document', 'summary'",
        ),
        (["uid", "label", "reason"], "tfds:anli/r1 has no feature 'reason'"),
    ],
)
def test_a_feature_that_is_not_there_is_refused(fields, message, mocked):
    name = message.split(" ")[0].removeprefix("tfds:")
    with pytest.raises(ValueError, match=message):
        tfds_records.read(name, "train", fields, data_dir=None)


def test_a_split_that_is_not_there_is_refused_with_what_is(mocked):
    with pytest.raises(
        FileNotFoundError, match="no split 'val'; it has .*'validation'"
    ):
        tfds_records.read("xsum", "val", ["summary"], data_dir=None)


def test_a_data_set_that_was_not_built_is_refused_and_not_downloaded(tmp_path):
    data = Answers(
        source="tfds:gsm8k", vocabulary=VOCABULARY, data_dir=str(tmp_path / "none")
    )
    with pytest.raises(FileNotFoundError, match="finds no 'gsm8k' in .*`tfds build`"):
        data.read(seq_len=64)


def test_a_data_set_whose_files_are_gone_is_refused_by_name(data_dir):
    with pytest.raises((ValueError, FileNotFoundError), match="tfds:xsum train"):
        tfds_records.read("xsum", "train", ["summary"], data_dir=data_dir)

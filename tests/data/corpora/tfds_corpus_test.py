import dataclasses
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.corpus import Fields
from salt_jax.data.preparing.prepare import prepare

# Of protocol buffers, in TensorFlow Datasets.
pytestmark = pytest.mark.filterwarnings("ignore:label:DeprecationWarning")

FEATURES = {
    "text": tfds.features.Text(),
    "meta": {"pile_set_name": np.str_, "stars": np.int64},
    "label": tfds.features.ClassLabel(names=["good", "bad"]),
    "lines": tfds.features.Sequence(tfds.features.Text()),
}
DOMAINS = ("Github", "KJV Bible")
NAME = "tfds:tiny/small:1.2.0"


def make_example(index):
    return {
        "text": f"text {index} \u2603\0",
        "meta": {"pile_set_name": DOMAINS[index % 2], "stars": index},
        "label": "good",
        "lines": ["a", "b"],
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="small"),)

        def _info(self):
            features = tfds.features.FeaturesDict(FEATURES)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(20)}

        def _generate_examples(self, count):
            for index in range(count):
                yield index, make_example(index)

    folder = str(tmp_path_factory.mktemp("tfds"))
    in_shards = tfds.download.DownloadConfig(num_shards=3)
    with pytest.MonkeyPatch.context() as patch:
        # A builder asks for what the web knows of it.
        patch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: 0)
        Tiny(data_dir=folder).download_and_prepare(download_config=in_shards)
    return folder


@pytest.fixture
def own_data_dir(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / "tfds")


def shard_file(data_dir, index):
    pattern = f"*-train.tfrecord-{index:05}-of-00003"
    (file,) = pathlib.Path(data_dir).rglob(pattern)
    return file


def documents(part):
    return [
        (number, found.text, found.domain)
        for block in part.blocks()
        for number, found in block.documents()
    ]


def test_the_parts_are_the_shards_and_hold_every_example(data_dir):
    parts = corpus.split_parts(NAME, "train", data_dir=data_dir)
    names = [f"tfds:tiny/small/1.2.0 train shard {index}" for index in range(3)]
    assert [part.name for part in parts] == names
    found = [documents(part) for part in parts]
    for part in found:
        assert [number for number, _, _ in part] == list(range(1, len(part) + 1))
    examples = [make_example(index) for index in range(20)]
    assert sorted(pair[1:] for part in found for pair in part) == sorted(
        (example["text"], example["meta"]["pile_set_name"]) for example in examples
    )


def test_a_shard_is_read_in_its_own_order_and_by_whom_it_is_sent_to(data_dir):
    records = tf.data.TFRecordDataset([str(shard_file(data_dir, 1))])
    examples = [tf.train.Example.FromString(x) for x in records.as_numpy_iterator()]
    texts = [x.features.feature["text"].bytes_list.value[0] for x in examples]
    part = corpus.split_parts(NAME, "train", data_dir=data_dir)[1]
    found = documents(pickle.loads(pickle.dumps(part)))
    assert [text for _, text, _ in found] == [text.decode() for text in texts]
    assert len(texts) > 1


@pytest.mark.parametrize("name", ["tfds:tiny/small", "tfds:tiny/small:1.*.*"])
def test_the_newest_version_is_meant_when_none_is_named(name, data_dir):
    parts = corpus.split_parts(name, "train", data_dir=data_dir)
    assert parts == corpus.split_parts(NAME, "train", data_dir=data_dir)


def test_another_feature_may_be_the_domain_or_none(data_dir):
    fields = Fields(text="meta.pile_set_name", domain="text")
    part = corpus.split_parts(NAME, "train", fields, data_dir=data_dir)[0]
    assert {text for _, text, _ in documents(part)} == set(DOMAINS)
    fields = Fields(domain="nothing.like.it", default_domain="Web")
    part = corpus.split_parts(NAME, "train", fields, data_dir=data_dir)[0]
    assert {domain for _, _, domain in documents(part)} == {"Web"}


REFUSED = {
    "has no feature 'body'; it has .*'label', 'lines', 'meta'": Fields(text="body"),
    "'meta.source'.*fields.domain, or give fields.def": Fields(domain="meta.source"),
    "'meta.stars' of .* is int64 of shape \\(\\), not": Fields(domain="meta.stars"),
    "'lines' of .* is string of shape \\(None,\\), not": Fields(text="lines"),
    "'meta' of .* is dict, not one text": Fields(text="meta"),
}


@pytest.mark.parametrize(("message", "fields"), REFUSED.items())
def test_features_that_will_not_do_are_refused_before_any_is_read(
    message, fields, data_dir
):
    with pytest.raises(ValueError, match=message):
        corpus.split_parts(NAME, "train", fields, data_dir=data_dir)


@pytest.mark.parametrize("name", ["tiny/large", "tiny/small:2.0.0", "nothing", "mnist"])
def test_a_data_set_that_is_not_there_is_refused_not_downloaded(name, data_dir):
    message = rf"finds no '{name}' in .*`tfds build` first; nothing is downloaded here."
    with pytest.raises(FileNotFoundError, match=message):
        corpus.split_parts(f"tfds:{name}", "train", data_dir=data_dir)


def test_a_missing_split_is_refused_with_what_is_there(data_dir):
    message = r"tfds:tiny/small:1.2.0 has no split 'val'; it has \['train'\]"
    with pytest.raises(FileNotFoundError, match=message):
        corpus.split_parts(NAME, "val", data_dir=data_dir)


def test_a_missing_shard_is_refused_by_name(own_data_dir):
    shard_file(own_data_dir, 1).unlink()
    message = r"train shard 1 should be in .*-00001-of-00003"
    with pytest.raises(FileNotFoundError, match=message):
        corpus.split_parts(NAME, "train", data_dir=own_data_dir)


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: x[::-1]])
def test_a_damaged_shard_is_refused_by_name(damage, own_data_dir):
    file = shard_file(own_data_dir, 2)
    file.write_bytes(damage(file.read_bytes()))
    part = corpus.split_parts(NAME, "train", data_dir=own_data_dir)[2]
    message = r"^tfds:tiny/small/1.2.0 train shard 2 cannot be read: [^{\[\n]*$"
    with pytest.raises(ValueError, match=message):
        documents(part)


def test_a_shard_without_examples_has_no_documents(own_data_dir):
    (file,) = pathlib.Path(own_data_dir).rglob("dataset_info.json")
    info = json.loads(file.read_text())
    info["splits"][0]["shardLengths"][1] = "0"
    file.write_text(json.dumps(info))
    shard_file(own_data_dir, 1).write_bytes(b"")
    parts = corpus.split_parts(NAME, "train", data_dir=own_data_dir)
    assert [bool(documents(part)) for part in parts] == [True, False, True]


def test_the_fingerprint_changes_with_the_shard_alone(own_data_dir):
    parts = corpus.split_parts(NAME, "train", data_dir=own_data_dir)
    before = [part.fingerprint() for part in parts]
    shutil.copy(shard_file(own_data_dir, 0), shard_file(own_data_dir, 1))
    after = [part.fingerprint() for part in parts]
    assert (before[0], before[2]) == (after[0], after[2]) == (after[1], after[2])
    assert before[1] != after[1]


@pytest.mark.slow
def test_a_data_set_is_prepared_on_any_number_of_processes(
    own_preparation, data_dir, tmp_path
):
    def manifest(num_processes):
        preparation = dataclasses.replace(
            own_preparation,
            corpus=NAME,
            data_dir=data_dir,
            splits=("train",),
            num_processes=num_processes,
            output=str(tmp_path / str(num_processes)),
        )
        return prepare(preparation)["train"].manifest

    alone = manifest(1)
    assert sum(counts.documents for counts in alone.domain_counts) == 20
    assert alone.domains == DOMAINS
    assert manifest(2) == alone

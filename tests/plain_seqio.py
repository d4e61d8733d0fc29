"""The embedded corpus as SeqIO by itself reads it, to compare with."""

import functools

import seqio
import tensorflow as tf

from salt_jax.data import embedded
from salt_jax.data.corpora import corpus


def batches(folder, vocabulary, *, batch_size, seq_len):
    """Yields packed batches of the text, tokenized as it is read."""
    texts = f"{folder}/texts.tfrecord"
    _write_texts(texts)
    own = seqio.SentencePieceVocabulary(str(embedded.resolve(vocabulary)))
    task = seqio.Task(
        "plain",
        source=seqio.TFExampleDataSource(
            {"train": texts}, {"targets": tf.io.FixedLenFeature([], tf.string)}
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            # Without this SeqIO trims each document, and most of the text is gone.
            functools.partial(_split_tokens, seq_len=seq_len),
        ],
        output_features={"targets": seqio.Feature(own)},
    )
    dataset = seqio.get_dataset(
        task,
        task_feature_lengths={"targets": seq_len},
        feature_converter=seqio.LMFeatureConverter(pack=True),
        dataset_split="train",
        shuffle=True,
        seed=0,
        num_epochs=None,
        batch_size=batch_size,
    )
    return dataset.as_numpy_iterator()


def _write_texts(path):
    with tf.io.TFRecordWriter(path) as writer:
        for part in corpus.split_parts("embedded:minipile", "train"):
            for block in part.blocks():
                for _, document in block.documents():
                    writer.write(_record(document.text))


def _record(text):
    value = tf.train.BytesList(value=[text.encode()])
    features = tf.train.Features(
        feature={"targets": tf.train.Feature(bytes_list=value)}
    )
    return tf.train.Example(features=features).SerializeToString()


def _split_tokens(dataset, *, seq_len):
    """Cuts each document into pieces of a row, the last one shorter."""
    pieces = dataset.flat_map(
        lambda x: tf.data.Dataset.from_tensor_slices(x["targets"]).batch(seq_len)
    )
    return pieces.map(lambda piece: {"targets": piece})

"""Tasks and a mixture as a user of SeqIO would register them, for stages to read."""

import functools

import numpy as np
import seqio
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from salt_jax.data import embedded

NUM_TEXTS = 150
WORDS = ["the", "small", "model", "helps", "a", "large", "one", "and", "then", "leaves"]
VOCABULARY = "embedded:tokenizer/spm_4k.model"
FILE = str(embedded.resolve(VOCABULARY))


def vocabulary(**changes):
    return seqio.SentencePieceVocabulary(FILE, **changes)


def texts(count=NUM_TEXTS, seed=0, most_words=30):
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(WORDS, rng.integers(1, most_words))) + f" {number}."
        for number in range(count)
    ]


def from_texts(split, shuffle_files, seed=None, *, texts):
    del split, shuffle_files, seed  # The task shuffles, in a buffer.
    return tf.data.Dataset.from_tensor_slices(tf.constant(texts, tf.string))


def as_targets(dataset):
    return dataset.map(lambda text: {"targets": text})


def as_pair(dataset):
    def pair(text):
        return {"inputs": tf.strings.substr(text, 0, 10), "targets": text}

    return dataset.map(pair)


def add(name, *, texts=texts(), preprocessors=(), features=("targets",), of=None):
    """Registers a task of some texts."""
    of = of or vocabulary()
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(from_texts, texts=texts), splits=["train"]
        ),
        preprocessors=[
            *preprocessors,
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features={x: seqio.Feature(of, add_eos=True) for x in features},
    )


def add_tokens(name, examples):
    """Registers a task of tokens."""

    def from_tokens(split, shuffle_files, seed=None):
        del split, shuffle_files, seed
        return tf.data.Dataset.from_generator(
            lambda: iter(examples),
            output_signature={x: tf.TensorSpec([None], tf.int32) for x in examples[0]},
        )

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(from_tokens, splits=["train"]),
        preprocessors=[],
        output_features={x: seqio.Feature(vocabulary()) for x in examples[0]},
    )


PAIR = ("inputs", "targets")
NORMALIZED = sentencepiece_model_pb2.NormalizerSpec(add_dummy_prefix=True)
add("st_text", preprocessors=[as_targets])
add("st_other_text", texts=texts(100, seed=1), preprocessors=[as_targets])
add("st_pair", texts=texts(most_words=8), preprocessors=[as_pair], features=PAIR)
add("st_long_pair", preprocessors=[as_pair], features=PAIR)
add("st_extra", preprocessors=[as_targets], of=vocabulary(extra_ids=5))
add("st_bytes", preprocessors=[as_targets], of=seqio.ByteVocabulary())
add("st_odd", preprocessors=[as_targets], features=("targets", "notes"))
add("st_empty", texts=(), preprocessors=[as_targets])
add(
    "st_normalized",
    preprocessors=[as_targets],
    of=vocabulary(normalizer_spec_overrides=NORMALIZED),
)
add_tokens("st_unknown", [{"targets": [5, 4095]}, {"targets": [4096]}])
add_tokens(
    "st_no_targets",
    [{"inputs": [7, 8], "targets": []}, {"inputs": [], "targets": [9] * 32}],
)
seqio.MixtureRegistry.add("st_empty_mix", [("st_text", 1.0), ("st_empty", 1.0)])
seqio.MixtureRegistry.add("st_mix", [("st_text", 3.0), ("st_other_text", 1.0)])

"""Prepared text as SeqIO tasks, for programs built on SeqIO.

A task here is a value: pass it to `seqio.get_dataset`, or call `register` for tools
that need a registered name. Examples have the features that SeqIO's converters make for
language models, and "id". They are packed already, so they need no converter:

    from salt_jax.data.reading import seqio_tasks
    from salt_jax.data.reading.prepared_text import PreparedText

    text = PreparedText(path="/data/prepared", vocabulary="/data/256k.model")
    seqio_tasks.register("salt_text", text, seq_len=1280)

    seqio.get_dataset(
        "salt_text",
        task_feature_lengths={"decoder_target_tokens": 1280},
        feature_converter=seqio.PassThroughFeatureConverter(),
        dataset_split="train",
    )
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from salt_jax.data import permutation
from salt_jax.data.corpora.seqio_vocabulary import seqio_vocabulary
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.objectives import CausalLM
from salt_jax.data.reading.prepared_text import PreparedText, selected_ids
from salt_jax.data.reading.rows import causal_batch
from salt_jax.data.scoring.scores import Scores
from salt_jax.data.vocabulary import Vocabulary

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]

_READ_SEQUENCES = 256
_FEATURES = {
    "decoder_target_tokens": "targets_BL",
    "decoder_input_tokens": "tokens_BL",
    "decoder_loss_weights": "weights_BL",
    "decoder_segment_ids": "segments_BL",
    "decoder_positions": "positions_BL",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreFeature:
    """The scores that examples carry in their feature "score"."""

    scores: str  # Where `score` wrote them.
    score: str = "median_k10_zeros"


class PreparedSource(seqio.DataSource):
    """Sequences of a prepared split, by id, as a SeqIO source."""

    def __init__(
        self, dataset: PreparedDataset, ids: np.ndarray, scores: np.ndarray | None
    ):
        self._dataset = dataset
        self._ids = ids
        self._scores = scores  # By id.
        split = dataset.manifest.split
        super().__init__(splits=[split], num_input_examples={split: len(ids)})

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: any number of readers can share the sequences."""
        return True

    @property
    def performs_internal_shuffling(self) -> bool:
        """True: `get_dataset` shuffles whole epochs."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns a single name; SeqIO shards the sequences inside it."""
        return [split]

    def get_dataset(
        self,
        split: str | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Returns the examples, ordered by id unless shuffled.

        Raises:
          ValueError: the source holds another split.
        """
        if split not in (None, *self.splits):
            raise ValueError(f"This source is of {self.splits}, not {split!r}.")
        ids = self._ids
        if shuffle:
            numbers = np.arange(len(ids))
            ids = ids[permutation.shuffled(numbers, size=len(ids), seed=seed or 0)]
        if shard_info is not None:
            ids = ids[shard_info.index :: shard_info.num_shards]
        examples = tf.data.Dataset.from_tensor_slices(ids).batch(_READ_SEQUENCES)
        examples = examples.map(self._read, num_parallel_calls=1).unbatch()
        return examples.repeat(num_epochs)

    def _read(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the features of a batch of examples."""
        types = dict.fromkeys(_FEATURES, tf.int32)
        if self._scores is not None:
            types["score"] = tf.float32
        names = list(types)
        values = tf.numpy_function(self._read_numpy, [ids], list(types.values()))
        for name, value in zip(names, values, strict=True):
            length = [] if name == "score" else [self._dataset.manifest.seq_len]
            value.set_shape([None, *length])
        return dict(zip(names, values, strict=True)) | {"id": ids}

    def _read_numpy(self, ids: np.ndarray) -> list[np.ndarray]:
        batch = causal_batch(self._dataset.read(ids))
        values = [getattr(batch, name).astype(np.int32) for name in _FEATURES.values()]
        return values if self._scores is None else [*values, self._scores[ids]]


def keep_by_score(dataset: tf.data.Dataset, *, threshold: float) -> tf.data.Dataset:
    """Keeps the examples whose score is at least `threshold`."""
    return dataset.filter(lambda example: example["score"] >= threshold)


def prepared_task(
    text: PreparedText,
    *,
    seq_len: int,
    name: str = "salt_text",
    scored: ScoreFeature | None = None,
    preprocessors: Sequence[Preprocessor] = (),
) -> seqio.Task:
    """Returns the sequences of `text`, whole or selected, as a SeqIO task.

    Args:
      text: The data; examples are what its selection keeps.
      seq_len: The sequence length of the prepared data.
      name: The name of the task in messages.
      scored: Adds a feature "score" and keeps only sequences that were scored.
      preprocessors: Applied to the examples, such as `keep_by_score`.

    Raises:
      FileNotFoundError: the data, the vocabulary or the scores are missing.
      ValueError: these do not match, or the objective is not causal.
    """
    if text.objective != CausalLM():
        raise ValueError(
            f"A task gives whole sequences, and {text.objective} would change them: "
            "give it a PreparedText without an objective."
        )
    dataset = text.open(seq_len=seq_len)
    selection = text.selection
    ids = np.arange(len(dataset))
    if selection is not None:
        ids = selected_ids(selection, dataset)
    scores = None
    if scored is not None:
        scores = Scores.open(scored.scores, dataset).column(scored.score)
        ids = ids[ids < len(scores)]
    vocabulary = seqio_vocabulary(Vocabulary.open(text.vocabulary))
    return seqio.Task(
        name,
        source=PreparedSource(dataset, ids, scores),
        output_features={
            feature: seqio.Feature(vocabulary, add_eos=False) for feature in _FEATURES
        },
        preprocessors=list(preprocessors),
        shuffle_buffer_size=None,
    )


def register(name: str, text: PreparedText, *, seq_len: int) -> seqio.Task:
    """Adds the task of `text` to SeqIO's registry, for tools that want a name."""
    task = prepared_task(text, seq_len=seq_len, name=name)
    seqio.TaskRegistry.add_provider(name, task)
    return task

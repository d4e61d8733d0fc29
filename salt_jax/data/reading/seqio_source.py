"""A registered SeqIO task or mixture, as an endless stream of examples.

Dimensions: N tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from salt_jax.data.corpora import tf_examples
from salt_jax.data.corpora.seqio_corpus import get_tasks
from salt_jax.data.corpora.seqio_vocabulary import TokenizersVocabulary, file_of
from salt_jax.data.reading.objectives import Example
from salt_jax.data.vocabulary import Vocabulary

_NOTHING = np.zeros(0, np.int32)
_FEATURES = ({"targets"}, {"inputs", "targets"})
_MASK_64 = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A task or mixture with the features and vocabulary that training needs."""

    provider: seqio.Task | seqio.Mixture
    vocabulary: Vocabulary
    split: str
    lengths: Mapping[str, int | None]

    @classmethod
    def open(
        cls,
        *,
        task: str,
        module: str | None,
        vocabulary: str,
        split: str,
        lengths: Mapping[str, int | None],
    ) -> Source:
        """Finds a task or mixture and checks its features and vocabulary.

        Raises:
          FileNotFoundError: there is no vocabulary.
          ValueError: there is no such task or split, or it has unknown features or
            another vocabulary.
        """
        # TensorFlow would reserve all accelerator memory.
        tf.config.set_visible_devices([], "GPU")
        provider = _find(task, module)
        ours = Vocabulary.open(vocabulary)
        if set(provider.output_features) not in _FEATURES:
            raise ValueError(
                f"The task {task!r} has the features "
                f"{sorted(provider.output_features)}; training needs targets, or "
                "inputs and targets."
            )
        for name, feature in provider.output_features.items():
            _check_vocabulary(f"The feature {name!r} of {task!r}", feature, ours)
        if split not in provider.splits:
            raise ValueError(
                f"The task {task!r} has no split {split!r}; it has "
                f"{sorted(provider.splits)}."
            )
        known = {name: lengths[name] for name in provider.output_features}
        return cls(provider=provider, vocabulary=ours, split=split, lengths=known)

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"seqio:{self.provider.name} {self.split}"

    @property
    def has_inputs(self) -> bool:
        """Whether examples have inputs."""
        return "inputs" in self.provider.output_features

    def examples(self, seed: int | None) -> Iterator[Example]:
        """Yields the examples of endless epochs.

        Args:
          seed: Of the shuffle and preprocessing of each epoch; None: no shuffle.

        Raises:
          ValueError: there are no examples, a token is outside the vocabulary, or the
            pipeline fails.
        """
        for epoch in itertools.count():
            count = 0
            with tf_examples.translate_errors(self.name):
                for features in self._epoch(seed, epoch).as_numpy_iterator():
                    example = self._example(features)
                    count += len(example.targets) > 0
                    yield example
            if count == 0 or isinstance(self.provider, seqio.Mixture):
                raise ValueError(f"{self.name} has no example, or a task of it none.")

    def _epoch(self, seed: int | None, epoch: int) -> tf.data.Dataset:
        """Returns the examples of an epoch. A mixture is a single endless epoch."""
        chance = np.random.SeedSequence(((seed or 0) & _MASK_64, epoch))
        dataset = self.provider.get_dataset(
            sequence_length=self.lengths if any(self.lengths.values()) else None,
            split=self.split,
            shuffle=seed is not None,
            seed=int(chance.generate_state(1)[0])
            >> 1,  # TensorFlow's seeds are signed.
            num_epochs=None if isinstance(self.provider, seqio.Mixture) else 1,
            try_in_mem_cache=False,
        )
        options = tf.data.Options()
        options.deterministic = True
        return dataset.with_options(options)

    def _example(self, features: Mapping[str, np.ndarray]) -> Example:
        inputs, targets = (
            np.asarray(features[name], np.int32) if name in features else _NOTHING
            for name in ("inputs", "targets")
        )
        tokens = np.concatenate([inputs, targets])
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocabulary.size:
            raise ValueError(
                f"{self.name} makes tokens from {tokens.min()} to {tokens.max()}, and "
                f"{self.vocabulary.path} has 0 to {self.vocabulary.size - 1}."
            )
        return Example(inputs, targets)


def has_inputs(task: str, module: str | None) -> bool:
    """Returns whether the examples of a task or mixture have inputs.

    Raises:
      ValueError: there is no such task, or the module cannot be imported.
    """
    return "inputs" in _find(task, module).output_features


def _find(task: str, module: str | None) -> seqio.Task | seqio.Mixture:
    get_tasks(task, module)  # Raises if the task is not registered.
    return seqio.get_mixture_or_task(task)


def _check_vocabulary(name: str, feature: seqio.Feature, ours: Vocabulary) -> None:
    theirs = feature.vocabulary
    file = file_of(theirs)
    if file is None:
        kind = type(theirs).__name__
        raise ValueError(f"{name} is of a {kind}, not of the file {ours.path}.")
    if theirs.extra_ids:
        raise ValueError(
            f"{name} adds {theirs.extra_ids} extra_ids to its vocabulary, which the "
            "models do not have. Use a file that contains them, and extra_ids=0."
        )
    fingerprint = Vocabulary.open(file).fingerprint
    if fingerprint != ours.fingerprint:
        raise ValueError(
            f"{name} uses the vocabulary {file} ({fingerprint[:12]}), and {ours.path} "
            f"is {ours.fingerprint[:12]}: use the same file for both."
        )
    if isinstance(theirs, TokenizersVocabulary):
        return
    if theirs.sp_model != seqio.SentencePieceVocabulary(file).sp_model:
        raise ValueError(
            f"{name} changes how {file} normalizes text: leave its "
            "normalizer_spec_overrides out."
        )

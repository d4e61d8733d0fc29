"""A registered SeqIO task or mixture as a corpus.

`prepare` needs documents, which it takes from a task's examples. In this order:

- text, in the feature that `Fields.text` names, or in "targets";
- tokens of the same vocabulary in "targets", which are used as they are. A task that
  also has "inputs" is refused, because they would be lost.

A mixture is read as its tasks, each of them once: the rates of a mixture are ignored,
because stages weigh domains. The domain of an example defaults to
`Fields.default_domain`, or else to the name of its task.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf
from absl import logging

from salt_jax.data.corpora import tf_examples
from salt_jax.data.corpora.document import Document, Fields
from salt_jax.data.corpora.seqio_vocabulary import file_of
from salt_jax.data.vocabulary import Vocabulary

_TARGETS = "targets"


@dataclasses.dataclass(frozen=True)
class TaskShard:
    """The examples of a task from one shard of its source, as a part of a corpus."""

    task: str
    split: str
    index: int
    num_shards: int
    fields: Fields
    vocabulary: str | None  # The vocabulary file, if the task may tokenize.
    module: str | None  # The module that registers the task.

    @property
    def name(self) -> str:
        """The task, the split and the shard."""
        return f"seqio:{self.task} {self.split} shard {self.index}"

    def fingerprint(self) -> str:
        """Returns the SHA-256 of all documents; a task has no file to hash."""
        digest = hashlib.sha256()
        for block in self.blocks():
            for number, found in block.documents():
                digest.update(json.dumps([number, _plain(found)]).encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Builds the task's pipeline, without reading anything.

        Raises:
          ValueError: it makes neither text nor tokens of the vocabulary.
        """
        self._open()

    def blocks(self) -> Iterator[tf_examples.Examples]:
        """Yields all examples in blocks.

        Raises:
          ValueError: the source is damaged.
        """
        examples, fields, vocabulary = self._open()
        yield from tf_examples.in_blocks(examples, fields, self.name, vocabulary)

    def _open(self) -> tuple[tf.data.Dataset, Fields, Vocabulary | None]:
        """Returns the examples, their fields, and the vocabulary if they are tokens."""
        task = get_tasks(self.task, self.module)[0]
        shard = seqio.ShardInfo(index=self.index, num_shards=self.num_shards)
        with tf_examples.translate_errors(self.name):
            # `Task.get_dataset` would pass its seed to the source, which not every
            # source accepts. Without a seed, preprocessors would not be deterministic.
            examples = task.source.get_dataset(
                split=self.split, shuffle=False, shard_info=shard
            )
            examples = task.preprocess_precache(examples, seed=0)
            examples = task.preprocess_postcache(examples, sequence_length=None, seed=0)
        fields, vocabulary = self._kind(task, examples.element_spec)
        return examples, fields, vocabulary

    def _kind(
        self, task: seqio.Task, spec: Mapping[str, Any]
    ) -> tuple[Fields, Vocabulary | None]:
        name = f"The task {self.task!r}"
        fields = dataclasses.replace(
            self.fields, default_domain=self.fields.default_domain or self.task
        )
        if tf_examples.is_text(spec, fields.text, name):
            return fields, None
        fields = dataclasses.replace(fields, text=_TARGETS)
        targets = spec.get(_TARGETS)
        if not isinstance(targets, tf.TensorSpec):
            raise ValueError(
                f"{name} makes neither {self.fields.text!r} nor {_TARGETS!r}, but "
                f"{sorted(spec)}: name its text in fields.text."
            )
        if not (targets.dtype.is_integer and targets.shape.rank == 1):
            tf_examples.is_text(spec, _TARGETS, name)
            return fields, None
        if "inputs" in spec:
            raise ValueError(
                f"{name} makes tokens of 'inputs' and of 'targets', and prepare reads "
                "documents: use a task without 'inputs', or name the text feature in "
                "fields.text."
            )
        return fields, self._same_vocabulary(task, name)

    def _same_vocabulary(self, task: seqio.Task, name: str) -> Vocabulary:
        """Returns our vocabulary; raises ValueError if the task's is another."""
        theirs = task.output_features[_TARGETS].vocabulary
        file = file_of(theirs)
        if self.vocabulary is not None and file is not None:
            ours = Vocabulary.open(self.vocabulary)
            if Vocabulary.open(file).fingerprint == ours.fingerprint:
                return ours
        raise ValueError(
            f"{name} makes tokens of {file or type(theirs).__name__}, not of "
            f"{self.vocabulary}: give prepare that vocabulary, or a task that does not "
            "tokenize."
        )


def task_shards(
    name: str, split: str, fields: Fields, *, module: str | None, vocabulary: str | None
) -> list[TaskShard]:
    """Returns the shards of a split of a task, or of each task of a mixture.

    Args:
      name: The name of a registered task or mixture.
      split: The name of the split.
      fields: The features with the text and the domain, as dotted paths.
      module: Imported first to register the task; None: it is registered already.
      vocabulary: The vocabulary file that the task must use if it tokenizes.

    Raises:
      FileNotFoundError: a task has no such split.
      ValueError: there is no such task, or it makes neither text nor tokens of the
        vocabulary.
    """
    shards = []
    tasks = get_tasks(name, module)
    if name in seqio.MixtureRegistry.names():
        logging.info(
            "Reading each of the %d tasks of %r once; the rates of the mixture are "
            "ignored.",
            len(tasks),
            name,
        )
    for task in tasks:
        if split not in task.splits:
            raise FileNotFoundError(
                f"The task {task.name!r} has no split {split!r}; it has "
                f"{sorted(task.splits)}."
            )
        with tf_examples.translate_errors(f"seqio:{task.name}"):
            num_shards = len(task.source.list_shards(split))
        if not num_shards:
            raise FileNotFoundError(
                f"The task {task.name!r} finds no file of its split {split!r}."
            )
        of_task = [
            TaskShard(task.name, split, i, num_shards, fields, vocabulary, module)
            for i in range(num_shards)
        ]
        of_task[0].check()
        shards += of_task
    return shards


def get_tasks(name: str, module: str | None) -> list[seqio.Task]:
    """Returns a registered task, or the tasks of a mixture sorted by name.

    Raises:
      ValueError: nothing has that name, or the module cannot be imported.
    """
    if module is not None:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"Cannot import module={module!r}: {error}.") from error
    if name in seqio.MixtureRegistry.names():
        tasks = seqio.MixtureRegistry.get(name).tasks
        return sorted(tasks, key=lambda task: task.name)
    if name in seqio.TaskRegistry.names():
        return [seqio.TaskRegistry.get(name)]
    known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    raise ValueError(
        f"No SeqIO task or mixture is named {name!r}; registered are {known[:20]}. "
        f"Give the module that registers it, not module={module!r}."
    )


def _plain(found: Document | str) -> list | str:
    """Returns a document, or the description of an error, as a JSON value."""
    if isinstance(found, str):
        return found
    tokens = None if found.tokens is None else found.tokens.tolist()
    return [found.text, found.domain, tokens]

"""Examples of TensorFlow pipelines as documents: what TFDS and SeqIO have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from salt_jax.data.corpora.document import Document, Fields
from salt_jax.data.vocabulary import Vocabulary

_BLOCK_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Examples:
    """Consecutive examples of a part."""

    first_number: int  # Of the first example in its part, from 1.
    examples: Sequence[Mapping[str, Any]]  # What each has at the paths of `fields`.
    fields: Fields
    vocabulary: Vocabulary | None  # Of examples that hold tokens, not text.

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields the number of each example, and its document or what is wrong."""
        for number, example in enumerate(self.examples, self.first_number):
            try:
                yield number, self._document(example)
            except UnicodeDecodeError:
                yield number, "not UTF-8"
            except ValueError as error:
                yield number, str(error)

    def _document(self, example: Mapping[str, Any]) -> Document:
        if self.vocabulary is None:
            return self.fields.document(_record(example))
        tokens = example[self.fields.text]
        if len(tokens) and tokens[-1] == self.vocabulary.eos_id:
            tokens = tokens[:-1]
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocabulary.size:
            raise ValueError(
                f"tokens {tokens.min()} to {tokens.max()}, and the vocabulary has 0 to "
                f"{self.vocabulary.size - 1}"
            )
        text = {self.fields.text: self.vocabulary.decode(tokens)}
        document = self.fields.document(_record({**example, **text}))
        return dataclasses.replace(document, tokens=tokens)


def check(spec: Mapping[str, Any], fields: Fields, name: str) -> None:
    """Looks at what features examples have.

    Raises:
      ValueError: they have no text, no domain and no default, or others than text.
    """
    if not is_text(spec, fields.text, name):
        raise ValueError(
            f"{name} has no feature {fields.text!r}; it has {sorted(spec)}. Name one "
            "in fields.text."
        )
    found = is_text(spec, fields.domain, name)
    if not found and fields.default_domain is None:
        raise ValueError(
            f"{name} has no feature {fields.domain!r}; it has {sorted(spec)}. Name one "
            "in fields.domain, or give fields.default_domain."
        )


def is_text(spec: Mapping[str, Any], path: str, name: str) -> bool:
    """Returns whether there is a feature at `path`, which is then one text.

    Raises:
      ValueError: it is something else.
    """
    found: Any = spec
    for step in path.split("."):
        if not isinstance(found, Mapping) or step not in found:
            return False
        found = found[step]
    if found == tf.TensorSpec((), tf.string):
        return True
    kind = (
        f"{found.dtype.name} of shape {found.shape}"
        if isinstance(found, tf.TensorSpec)
        else type(found).__name__
    )
    raise ValueError(f"The feature {path!r} of {name} is {kind}, not one text.")


def in_blocks(
    examples: tf.data.Dataset,
    fields: Fields,
    name: str,
    vocabulary: Vocabulary | None = None,
) -> Iterator[Examples]:
    """Yields examples in blocks, numbered from 1, with no more than what is needed.

    Args:
      examples: Of which `fields` names the text and, if there is one, the domain.
      fields: Where they are.
      name: Of the part, for messages.
      vocabulary: Given if `fields.text` is not text but tokens of this vocabulary.

    Raises:
      ValueError: what TensorFlow raised.
    """
    paths = [fields.text]
    if is_text(examples.element_spec, fields.domain, name):
        paths.append(fields.domain)
    with translate_errors(name):
        iterator = examples.map(lambda x: _pick(x, paths)).as_numpy_iterator()
        number = 1
        while found := list(itertools.islice(iterator, _BLOCK_EXAMPLES)):
            yield Examples(number, found, fields, vocabulary)
            number += len(found)


@contextlib.contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Says what could not be read when TensorFlow could not read it.

    Raises:
      ValueError: whatever TensorFlow raised.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # What TensorFlow says where, in braces and brackets, is of no use here.
        what = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message.partition("\n")[0])
        raise ValueError(
            f"{name} cannot be read: {what.strip(' .')}. Fetch or make it again."
        ) from error


def _pick(example: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Returns the features at some paths, by these paths."""
    return {
        path: functools.reduce(
            lambda found, step: found[step], path.split("."), example
        )
        for path in paths
    }


def _record(features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a": {"b": "1"}} for {"a.b": b"1"}."""
    record: dict[str, Any] = {}
    for path, value in features.items():
        *parents, leaf = path.split(".")
        node = record
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value.decode() if isinstance(value, bytes) else value
    return record

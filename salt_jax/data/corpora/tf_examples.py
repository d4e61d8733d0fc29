"""Examples of TensorFlow pipelines as documents; shared by TFDS and SeqIO."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from salt_jax.data.corpora.document import Document, Fields, find
from salt_jax.data.vocabulary import Vocabulary

_BLOCK_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Examples:
    """Consecutive examples of a part."""

    first_number: int  # The number of the first example in its part, from 1.
    examples: Sequence[Mapping[str, Any]]  # Features by the dotted paths of `fields`.
    fields: Fields
    vocabulary: Vocabulary | None  # Set if examples hold tokens instead of text.

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields each example's number, and its document or what is wrong with it."""
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
    """Checks the features of examples.

    Raises:
      ValueError: the text is missing, the domain is missing and has no default, or a
        feature is not text.
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
    """Returns whether there is a text feature at `path`.

    Raises:
      ValueError: there is a feature of another type.
    """
    found = find(spec, path)
    if found is None:
        return False
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
    """Yields blocks of examples, numbered from 1, with only their text and domain.

    Args:
      examples: The examples.
      fields: The features with the text and the domain.
      name: The name of the part in messages.
      vocabulary: The vocabulary, if `fields.text` holds tokens instead of text.

    Raises:
      ValueError: TensorFlow could not read the examples.
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
    """A context that turns TensorFlow's errors into ValueErrors that say `name`."""
    try:
        yield
    except tf.errors.OpError as error:
        # TensorFlow appends the place in its graph, in braces and brackets.
        what = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message.partition("\n")[0])
        raise ValueError(
            f"{name} cannot be read: {what.strip(' .')}. Fetch or make it again."
        ) from error


def _pick(example: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Returns the features at dotted `paths`, by path."""
    return {path: find(example, path) for path in paths}


def _record(features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns features with text in place of bytes."""
    return {
        path: value.decode() if isinstance(value, bytes) else value
        for path, value in features.items()
    }

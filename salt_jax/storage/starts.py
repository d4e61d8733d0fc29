"""What a student starts from: an export of its own shape, or one made of a smaller one.

A start of another kind is a class with the field and the method of `Start`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.model.config import TransformerConfig
from salt_jax.model.stacking import (
    ORDERS,
    OUTPUTS,
    check_depths,
    small_like,
    sources,
    stacked,
)
from salt_jax.storage.export import Export


class InitialParams(Protocol):
    """The parameters that a student starts from, opened but not yet read."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the arrays that they are made from."""

    def load(self, like: Any) -> Any:
        """Returns the parameters, on the shardings of `like`.

        Args:
          like: The parameters as shapes, dtypes and shardings.

        Raises:
          ValueError: the arrays are damaged.
        """


@runtime_checkable
class Start(Protocol):
    """A way to make the initial parameters of a student from an export."""

    export: str  # The path of the export.

    def open(self, model: TransformerConfig, vocabulary: Vocabulary) -> InitialParams:
        """Opens the export, and checks that it fits.

        Args:
          model: The student.
          vocabulary: Its vocabulary.

        Raises:
          FileNotFoundError: there is no export.
          ValueError: it is damaged, or the student cannot start from it.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
    """The blocks of a smaller model of the same width, repeated.

    Embeddings and the final norm are those of the smaller model. The student may have
    any larger number of layers.

    `order` is "whole", the stack repeated (Gong et al. 2019, Efficient Training of BERT
    by Progressively Stacking), or "each", every block repeated in place (Chang et al.
    2018, arXiv 1710.10348).

    `outputs` says what added blocks add to their input. "zero" is nothing: their output
    projections are zeros, or with post-norms the scales of these, and the rest of them
    is copied. The student starts as exactly the function of the smaller model (Wu et
    al. 2024, arXiv 2401.02415). "copied" leaves the copies as they are (Du et al. 2024,
    arXiv 2405.15319), so the start is worse than the smaller model. "divided" divides
    what a block adds among its copies, as a differential equation is solved in smaller
    steps (Chang et al.).
    """

    export: str  # Of the smaller model.
    order: str = "whole"
    outputs: str = "zero"

    def __post_init__(self):
        for name, allowed in (("order", ORDERS), ("outputs", OUTPUTS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(
                    f"Stacked.{name}={value!r} is not one of {', '.join(allowed)}."
                )

    def open(self, model: TransformerConfig, vocabulary: Vocabulary) -> InitialParams:
        """Opens the smaller model's export; see `Start.open`."""
        export = Export.open(self.export)
        layers = sources(self.order, export.model.num_layers, model.num_layers)
        try:
            check_depths(export.model, model, layers)
        except ValueError as error:
            raise ValueError(f"Stacked cannot use {export.path}: {error}") from error
        export.check_vocabulary(vocabulary)
        return _StackedParams(export, model, layers, self.outputs)


@dataclasses.dataclass(frozen=True)
class _StackedParams:
    export: Export
    model: TransformerConfig
    layers: list[int]
    outputs: str

    @property
    def fingerprint(self) -> str:
        return self.export.fingerprint

    def load(self, like: Any) -> Any:
        small = self.export.model
        params = self.export.load(small_like(like, small, self.model))
        return stacked(params, like, small, self.model, self.layers, self.outputs)


def open_start(
    start: str | Start, model: TransformerConfig, vocabulary: Vocabulary
) -> InitialParams:
    """Opens a start, or the path of an export of `model`; see `Start.open`.

    Raises what `Start.open` does.
    """
    if isinstance(start, str):
        return Export.open_for(start, model, vocabulary)
    return start.open(model, vocabulary)


def export_of(start: str | Start | None) -> str | None:
    """Returns the path of the export that a start is made from, if there is one."""
    return start if start is None or isinstance(start, str) else start.export

"""Questions about tokens, as the rows that a model has to read to answer them.

Dimensions: B batch, L length, S slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_LEAST_SLOTS = 64


@dataclasses.dataclass(frozen=True)
class LikelihoodRequest:
    """How likely are these tokens after those?"""

    context: Sequence[int]  # From the begin token on.
    continuation: Sequence[int]

    def tokens(self, limit: int) -> tuple[int, ...]:
        """Returns what is read: all but the last token, `limit` at most, cut left."""
        return (*self.context, *self.continuation)[-(limit + 1) : -1]


@dataclasses.dataclass
class PrefixRow:
    """Tokens read once, for all questions that are about a beginning of them."""

    tokens: tuple[int, ...]
    # The number of each question, with how many of the tokens it is about.
    asked: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    targets: int = 0  # Of all its questions.

    @property
    def slots(self) -> int:
        """The targets that there is room for: one of a few numbers."""
        slots = _LEAST_SLOTS
        while slots < self.targets:
            slots *= 4
        return slots


def rows_of(questions: Sequence[LikelihoodRequest], limit: int) -> list[PrefixRow]:
    """Returns the rows to read, those with the most slots and tokens first.

    What is a beginning of another row is not read by itself: no token sees those that
    come after it.

    Args:
      questions: The questions.
      limit: The most tokens that are read.
    """
    ordered = sorted((q.tokens(limit), number) for number, q in enumerate(questions))
    rows: list[PrefixRow] = []
    # Whatever begins with some tokens comes right after them.
    for tokens, number in reversed(ordered):
        targets = len(questions[number].continuation)
        has_room = rows and rows[-1].targets + targets <= max(_LEAST_SLOTS, limit)
        if not has_room or rows[-1].tokens[: len(tokens)] != tokens:
            rows.append(PrefixRow(tokens))
        rows[-1].asked.append((number, len(tokens)))
        rows[-1].targets += targets
    return sorted(rows, key=lambda row: (-row.slots, -len(row.tokens)))


@dataclasses.dataclass(frozen=True)
class RowArrays:
    """Rows as arrays, int32."""

    tokens_BL: np.ndarray
    segments_BL: np.ndarray  # 1, and 0 for padding.
    places_BS: np.ndarray  # Of the tokens from which targets are predicted.
    targets_BS: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[PrefixRow],
        questions: Sequence[LikelihoodRequest],
        *,
        shape: tuple[int, int],
        slots: int,
    ) -> RowArrays:
        """Returns `rows` in arrays of `shape`, and of as many slots."""
        in_row, in_slots = np.zeros((2, *shape), np.int32), (shape[0], slots)
        filled = cls(*in_row, *np.zeros((2, *in_slots), np.int32))
        for b, row in enumerate(rows):
            filled.tokens_BL[b, : len(row.tokens)] = row.tokens
            filled.segments_BL[b, : len(row.tokens)] = 1
            slot = 0
            for number, end in row.asked:
                targets = questions[number].continuation
                part = slice(slot, slot + len(targets))
                filled.places_BS[b, part] = np.arange(end - len(targets), end)
                filled.targets_BS[b, part] = targets
                slot = part.stop
        return filled

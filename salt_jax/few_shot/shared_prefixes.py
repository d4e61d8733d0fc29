"""Packs likelihood requests into rows: requests with a common prefix share a row.

Dimensions: B batch, L length, S slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_LEAST_SLOTS = 64


@dataclasses.dataclass(frozen=True)
class LikelihoodRequest:
    """Asks for the log-likelihood of a continuation, given a context."""

    context: Sequence[int]  # With the begin token.
    continuation: Sequence[int]

    def tokens(self, limit: int) -> tuple[int, ...]:
        """Returns the model's inputs: all but the last token, the last `limit`."""
        return (*self.context, *self.continuation)[-(limit + 1) : -1]


@dataclasses.dataclass
class PrefixRow:
    """Tokens that the model reads once for all requests that are prefixes of them."""

    tokens: tuple[int, ...]
    # The index of each request, and the length of its prefix of the tokens.
    asked: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    targets: int = 0  # The number of targets of all requests.

    @property
    def slots(self) -> int:
        """The room for targets: one of a few sizes, so that few shapes are compiled."""
        slots = _LEAST_SLOTS
        while slots < self.targets:
            slots *= 4
        return slots


def rows_of(questions: Sequence[LikelihoodRequest], limit: int) -> list[PrefixRow]:
    """Returns the rows to read, those with the most slots and tokens first.

    A request that is a prefix of another row is read with it: attention is causal, so
    later tokens do not change the result.

    Args:
      questions: The requests.
      limit: The maximum number of tokens in a row.
    """
    ordered = sorted((q.tokens(limit), number) for number, q in enumerate(questions))
    rows: list[PrefixRow] = []
    # In sorted order, all extensions of a prefix directly follow it.
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
    segments_BL: np.ndarray  # 1 for tokens, 0 for padding.
    places_BS: np.ndarray  # The positions that predict the targets.
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
        """Returns `rows` in arrays of `shape`, [B, L], with `slots` targets each."""
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

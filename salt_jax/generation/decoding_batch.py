"""One batch of prompts during decoding.

Dimensions: B batch, N maximum number of new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from salt_jax.generation.prefill_decode import Programs, Prompts
from salt_jax.model.transformer import Params

_LEAST_ROOM = 16  # The smallest number of new tokens that programs are compiled for.


class DecodingBatch:
    """A batch of prompts that is decoded a few tokens at a time."""

    def __init__(
        self,
        programs: Programs,
        params: Params,
        prompts: Prompts,
        *,
        num_texts: int,
        end_ids: Sequence[int],
        max_new_tokens: int,
    ):
        """Prefills the prompts; rows from `num_texts` on only pad the batch."""
        self._decode, self._params, self._prompts = programs.decode, params, prompts
        self._num_texts, self._end_ids = num_texts, frozenset(end_ids)
        self._max_new_tokens = max_new_tokens
        rows = len(prompts.lengths_B)
        self._is_done_B: Any = np.arange(rows) >= num_texts
        self._cache, self._written = programs.prefill(
            shape_for(max_new_tokens, _LEAST_ROOM),
            params,
            prompts,
            self._is_done_B,
        )
        self._look()

    def decode(self, num_tokens: int) -> None:
        """Decodes at most `num_tokens` more tokens for each row that is not done."""
        until = min(self._count + num_tokens, self._max_new_tokens)
        self._cache, self._written = self._decode(
            self._params,
            self._cache,
            self._written,
            self._prompts,
            self._is_done_B,
            _scalar(until),
        )
        self._look()

    def finish(self, row: int) -> None:
        """Marks `row` as done."""
        self._is_done_B[row] = True

    @property
    def is_done(self) -> bool:
        """Whether all rows are done or have `max_new_tokens`."""
        return bool(self._is_done_B.all()) or self._count >= self._max_new_tokens

    @property
    def texts(self) -> list[list[int]]:
        """The tokens that follow each prompt, before the end token if there is one.

        A row marked by `finish` may have meaningless tokens at its end.
        """
        return [
            self._until_end(row_N.tolist())
            for row_N in self._tokens_BN[: self._num_texts, : self._count]
        ]

    def _look(self) -> None:
        written = jax.device_get(self._written)
        self._tokens_BN, self._count = written.tokens_BN, int(written.count)
        self._is_done_B = self._is_done_B | written.is_done_B

    def _until_end(self, tokens: list[int]) -> list[int]:
        ends = (i for i, token in enumerate(tokens) if token in self._end_ids)
        return tokens[: next(ends, len(tokens))]


def shape_for(count: int, least: int = 1) -> int:
    """Returns the least of 1, 2, 3, 4, 6, 8, 12, ... not below `count` and `least`."""
    power = 1 << (max(count, least) - 1).bit_length()
    between = power // 4 * 3
    return between if between >= max(count, least) else power


def _scalar(number: int) -> Any:
    return np.int32(number)

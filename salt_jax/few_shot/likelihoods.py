"""Log-likelihoods of continuations, given their contexts.

Dimensions: B batch, L length, S slots, D embed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.few_shot.shared_prefixes import (
    LikelihoodRequest,
    PrefixRow,
    RowArrays,
    rows_of,
)
from salt_jax.loss.token_statistics import TokenStatistics, chunked_token_statistics
from salt_jax.model.transformer import Params, Transformer
from salt_jax.storage.loaded import LoadedModel
from salt_jax.telemetry.progress import Progress

# Lengths that programs are compiled for; longer ones are multiples of `_LONG`.
_LENGTHS, _LONG = (64, 128, 192, 256, 384, 512, 768), 512
_CHUNK_TOKENS = 512
# Short questions are read in batches as of questions of this length.
_LEAST_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A model's likelihood of a continuation."""

    log_likelihood: float  # Of the whole continuation, in nats.
    is_greedy: bool  # Whether every token is the likeliest.


@dataclasses.dataclass(frozen=True)
class LikelihoodReader:
    """Computes log-likelihoods in batches of few shapes, sharded over the mesh."""

    loaded: LoadedModel
    batch_size: int  # Of the longest rows; batches of shorter rows have more.
    name: str  # The name of the model in messages.
    stream: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: read at least one row.")

    def __call__(self, questions: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Returns the likelihoods, in the order of the requests.

        Contexts that are too long are truncated on the left.

        Raises:
          ValueError: a continuation is empty, or longer than the model's length.
        """
        self._check(questions)
        found: dict[int, Likelihood] = {}
        pending: tuple[list[PrefixRow], TokenStatistics] | None = None
        label = f"read by {self.name}"
        with Progress(label, len(questions), stream=self.stream) as progress:
            all_rows = rows_of(questions, self.loaded.max_length)
            for rows, shape in self._batches(all_rows):
                dispatched = rows, self._read(rows, questions, shape)
                # The devices compute this batch while the host reads the previous one.
                if pending is not None:
                    found |= _answers(questions, *pending)
                    progress.update(len(found))
                pending = dispatched
            if pending is not None:
                found |= _answers(questions, *pending)
            progress.update(len(found))
        return [found[number] for number in range(len(questions))]

    def _check(self, questions: Sequence[LikelihoodRequest]) -> None:
        limit = self.loaded.max_length
        for question in questions:
            if not 0 < len(question.continuation) <= limit:
                raise ValueError(
                    f"{self.name} is asked for the likelihood of "
                    f"{len(question.continuation)} tokens, and reads 1 to {limit}: "
                    "give a greater --max_length, or leave the task out."
                )

    def _batches(
        self, rows: Sequence[PrefixRow]
    ) -> Iterator[tuple[list[PrefixRow], tuple[int, int]]]:
        """Yields the rows of each batch, and its shape."""
        longest = max((len(row.tokens) for row in rows), default=1)
        for _, group in itertools.groupby(rows, lambda row: row.slots):
            alike = list(group)
            begin = 0
            while begin < len(alike):
                length = self._length(len(alike[begin].tokens))
                count = self._num_rows(length, longest=longest, asked=len(rows))
                yield alike[begin : begin + count], (count, length)
                begin += count

    def _length(self, tokens: int) -> int:
        """Returns the length that a row of `tokens` tokens is padded to."""
        longest = self.loaded.max_length
        lengths = {*_LENGTHS, *range(2 * _LONG, longest, _LONG), longest}
        length = min(x for x in lengths if tokens <= x <= longest)
        pieces = self.loaded.model.partitioning.size("length")
        return -(-length // pieces) * pieces

    def _num_rows(self, length: int, *, longest: int = 1, asked: int = 1) -> int:
        """Returns the rows of a batch: about as many tokens at any length.

        Args:
          length: The length that the rows are padded to.
          longest: The most tokens of any row: `batch_size` of these are a batch, or
            of `_LEAST_LENGTH` tokens if all are shorter.
          asked: The number of all rows.
        """
        shards = self.loaded.model.partitioning.size("batch")
        longest = max(longest, min(_LEAST_LENGTH, self.loaded.max_length))
        rows = self.batch_size * max(self._length(longest), length) // length
        # Not many more than there are, and of few numbers: each is compiled.
        rows = min(rows, max(1 << (asked - 1).bit_length(), self.batch_size))
        return -(-rows // shards) * shards

    def _read(
        self,
        rows: Sequence[PrefixRow],
        questions: Sequence[LikelihoodRequest],
        shape: tuple[int, int],
    ) -> TokenStatistics:
        """Dispatches a batch; returns the (asynchronous) statistics of its targets."""
        partitioning = self.loaded.model.partitioning
        pieces = partitioning.size("length")
        filled = RowArrays.of(
            rows,
            questions,
            shape=shape,
            slots=-(-rows[0].slots // pieces) * pieces,
        )
        sharding = partitioning.sharding("batch", "length")

        def put(x: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

        return _statistics(
            self.loaded.params,
            put(filled.tokens_BL),
            put(filled.segments_BL),
            put(filled.places_BS),
            put(filled.targets_BS),
            model=self.loaded.model,
        )


@functools.partial(jax.jit, static_argnames="model")
def _statistics(
    params: Params,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    places_BS: jax.Array,
    targets_BS: jax.Array,
    *,
    model: Transformer,
) -> TokenStatistics:
    """Returns the statistics of targets at given places of each row.

    Logits are computed at these places only.
    """
    batch = Batch(
        tokens_BL=tokens_BL,
        targets_BL=tokens_BL,  # Unused; the targets are `targets_BS`.
        weights_BL=segments_BL.astype(jnp.float32),
        segments_BL=segments_BL,
        positions_BL=jnp.arange(tokens_BL.shape[1])[None] * segments_BL,
    )
    read: Any = model.apply(params, batch)
    hidden_BSD = jnp.take_along_axis(read.hidden_BLD, places_BS[..., None], axis=1)
    statistics = chunked_token_statistics(
        read.replace(hidden_BLD=hidden_BSD),
        targets_BS,
        partitioning=model.partitioning,
        chunk_tokens=_CHUNK_TOKENS,
    )
    statistics = dataclasses.replace(statistics, entropy_BL=None)
    everywhere = model.partitioning.sharding()
    return jax.lax.with_sharding_constraint(statistics, everywhere)


def _answers(
    questions: Sequence[LikelihoodRequest],
    rows: Sequence[PrefixRow],
    statistics: TokenStatistics,
) -> dict[int, Likelihood]:
    """Returns the likelihoods in a batch, by the index of the request."""
    ce_BS, rank_BS = np.asarray(statistics.ce_BL), np.asarray(statistics.rank_BL)
    found = {}
    for b, row in enumerate(rows):
        slot = 0
        for number, _ in row.asked:
            part = slice(slot, slot + len(questions[number].continuation))
            nats = ce_BS[b, part].sum(dtype=np.float64)
            found[number] = Likelihood(
                -float(nats), bool((rank_BS[b, part] == 0).all())
            )
            slot = part.stop
    return found

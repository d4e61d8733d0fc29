"""The forward pass over many sequences, in batches, with results on the host.

Dimensions: B batch, N sequences, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.reading.rows import causal_batch
from salt_jax.evaluation.eval_step import ReadTokens, token_reader
from salt_jax.loss.token_statistics import TokenStatistics
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.transformer import Params, Transformer
from salt_jax.training.program import Program

Tag = TypeVar("Tag")
ReadRows = Callable[[np.ndarray], Batch]  # Rows by their numbers, int64 [B].


@dataclasses.dataclass(frozen=True)
class TokensRead:
    """Per-target loss, rank and entropy of some sequences, as numpy arrays."""

    sequences: Sequences
    ce_NL: np.ndarray  # float32, cross-entropy [nats].
    rank_NL: np.ndarray  # int32, the number of tokens likelier than the target.
    entropy_NL: np.ndarray | None  # float32 [nats]; None if it is not computed.
    ids: np.ndarray  # int64 [N], the ids of the sequences.

    @property
    def is_target(self) -> np.ndarray:
        """A mask [N, L]: True at tokens, False at padding."""
        return self.sequences.segments > 0


class OnHost(NamedTuple):
    """Per-target loss, rank and entropy of the rows of a batch, as numpy arrays."""

    ce_NL: np.ndarray  # float32, cross-entropy [nats].
    rank_NL: np.ndarray  # int32, the number of tokens likelier than the target.
    entropy_NL: np.ndarray | None  # float32 [nats]; None if it is not computed.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """A compiled forward pass and its batch size."""

    read: ReadTokens
    partitioning: Partitioning
    batch_size: int  # Rows of all devices together.
    # Told the tokens of each batch, if someone counts them.
    count: Callable[[int], None] = lambda tokens: None

    def __post_init__(self):
        shards = self.partitioning.size("batch")
        if self.batch_size < 1 or self.batch_size % shards:
            raise ValueError(
                f"batch_size={self.batch_size} does not divide over the {shards} parts "
                f"of the mesh {dict(self.partitioning.mesh.shape)}."
            )

    def __call__(
        self, params: Params, dataset: PreparedDataset, ids: np.ndarray
    ) -> Iterator[TokensRead]:
        """Yields the results for the sequences `ids` in order, a batch at a time."""
        return self.stream(params, dataset, self.batches(ids))

    def batches(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Yields `ids` in batches; only the last may be smaller."""
        for begin in range(0, len(ids), self.batch_size):
            yield ids[begin : begin + self.batch_size]

    def stream(
        self, params: Params, dataset: PreparedDataset, batches: Iterable[np.ndarray]
    ) -> Iterator[TokensRead]:
        """Yields the results for each of `batches`, arrays of sequence ids.

        The next batch is requested once the one before it is on the devices.
        """
        found = ((ids, dataset.read(ids)) for ids in batches)
        read = self.read_batches(params, ((x, causal_batch(x[1])) for x in found))
        for (ids, sequences), (ce_NL, rank_NL, entropy_NL) in read:
            yield TokensRead(sequences, ce_NL, rank_NL, entropy_NL, ids)

    def read_batches(
        self, params: Params, batches: Iterable[tuple[Tag, Batch]]
    ) -> Iterator[tuple[Tag, OnHost]]:
        """Yields the results for each of `batches`, with the tag it came with.

        The next batch is requested once the one before it is on the devices.

        Args:
          params: The model's parameters.
          batches: Pairs of a tag and a batch of at most `batch_size` rows.
        """
        pending = None
        for tag, batch in batches:
            statistics = self.read(params, self.on_mesh(batch))
            self.count(batch.tokens_BL.size)
            # The devices compute this batch while the host uses the one before.
            if pending is not None:
                yield _on_host(*pending)
            pending = (tag, statistics, len(batch.tokens_BL))
        if pending is not None:
            yield _on_host(*pending)

    def mean_loss(self, params: Params, read_rows: ReadRows, count: int) -> float:
        """Returns the mean loss [nats per target] of the first `count` rows."""
        nats, weight = 0.0, 0.0
        numbers = self.batches(np.arange(count))
        batches = (read_rows(rows) for rows in numbers)
        for weights_NL, found in self.read_batches(
            params, ((x.weights_BL, x) for x in batches)
        ):
            counts_NL = np.asarray(weights_NL, np.float64)
            nats += float(np.sum(found.ce_NL * counts_NL))
            weight += float(np.sum(counts_NL))
        return nats / weight

    def on_mesh(self, batch: Batch) -> Batch:
        """Returns a batch on the devices, filled up with rows of no weight."""
        missing = self.batch_size - len(batch.tokens_BL)
        sharding = self.partitioning.sharding("batch", "length")

        def put(x_NL: np.ndarray) -> jax.Array:
            x_BL = np.pad(x_NL, ((0, missing), (0, 0)))
            return jax.make_array_from_callback(
                x_BL.shape, sharding, lambda place: x_BL[place]
            )

        return jax.tree.map(put, batch)


def reader_of(
    program: Program,
    model: Transformer | None = None,
    *,
    real_vocab_size: int | None = None,
) -> Reader:
    """Returns the reader of a model, in batches of the training microbatch size.

    Args:
      program: The program.
      model: One of its models; default: the student.
      real_vocab_size: Tokens from here on have no probability; None: all have.
    """
    experiment = program.experiment
    model = program.student if model is None else model
    return Reader(
        read=token_reader(
            model,
            experiment.loss_chunk_tokens,
            real_vocab_size=real_vocab_size,
            kernel=experiment.loss_kernel,
        ),
        partitioning=program.partitioning,
        batch_size=experiment.largest_batch // experiment.num_microbatches,
        count=lambda tokens: program.held_out_tokens.update({model.config: tokens}),
    )


def _on_host(tag: Tag, statistics: TokenStatistics, count: int) -> tuple[Tag, OnHost]:
    on_host = jax.tree.map(lambda x_BL: np.asarray(x_BL)[:count], statistics)
    return tag, OnHost(on_host.ce_BL, on_host.rank_BL, on_host.entropy_BL)

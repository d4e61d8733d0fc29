"""Sequences read in order by a model that does not learn from them.

Dimensions: N sequences, L length.
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
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.evaluation.eval_step import ReadTokens, token_reader
from salt_jax.loss.losses import TokenStatistics
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.transformer import Params
from salt_jax.training.program import Program

What = TypeVar("What")
ReadRows = Callable[[np.ndarray], Batch]  # By their numbers, int64 [B].


@dataclasses.dataclass(frozen=True)
class TokensRead:
    """What a model made of some sequences, as numpy arrays."""

    sequences: Sequences
    ce_NL: np.ndarray  # float32, nats.
    rank_NL: np.ndarray  # int32, how many tokens were likelier than the target.
    entropy_NL: np.ndarray | None  # float32, nats; None if the reader leaves it out.
    ids: np.ndarray  # int64 [N], of the sequences.

    @property
    def is_target(self) -> np.ndarray:
        """True [N, L] where there is a token to predict, not padding."""
        return self.sequences.segments > 0


class OnHost(NamedTuple):
    """What a model made of the rows of a batch, as numpy arrays."""

    ce_NL: np.ndarray  # float32, nats.
    rank_NL: np.ndarray  # int32, how many tokens were likelier than the target.
    entropy_NL: np.ndarray | None  # float32, nats; None if the reader leaves it out.


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderedReading:
    """A compiled reader and the rows that it takes at a time."""

    read: ReadTokens
    partitioning: Partitioning
    batch_size: int

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
        """Yields what the model makes of the sequences `ids`, a batch at a time."""
        return self.stream(params, dataset, self.batches(ids))

    def batches(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Yields `ids` in batches, of which only the last may be smaller."""
        for begin in range(0, len(ids), self.batch_size):
            yield ids[begin : begin + self.batch_size]

    def stream(
        self, params: Params, dataset: PreparedDataset, batches: Iterable[np.ndarray]
    ) -> Iterator[TokensRead]:
        """Yields what the model makes of each of `batches`, arrays of ids.

        A batch is asked for when the one before it is on the devices.
        """
        found = ((ids, dataset.read(ids)) for ids in batches)
        read = self.read_batches(params, ((x, causal_batch(x[1])) for x in found))
        for (ids, sequences), (ce_NL, rank_NL, entropy_NL) in read:
            yield TokensRead(sequences, ce_NL, rank_NL, entropy_NL, ids)

    def read_batches(
        self, params: Params, batches: Iterable[tuple[What, Batch]]
    ) -> Iterator[tuple[What, OnHost]]:
        """Yields what the model makes of each of `batches`, of any rows.

        A batch is asked for when the one before it is on the devices.

        Args:
          params: Of the model.
          batches: With what they are, which is handed back; of `batch_size` at most.
        """
        pending = None
        for what, batch in batches:
            statistics = self.read(params, self._on_mesh(batch))
            # The devices read these while the host looks at those before.
            if pending is not None:
                yield _on_host(*pending)
            pending = (what, statistics, len(batch.tokens_BL))
        if pending is not None:
            yield _on_host(*pending)

    def _on_mesh(self, batch: Batch) -> Batch:
        missing = self.batch_size - len(batch.tokens_BL)
        sharding = self.partitioning.sharding("batch", "length")

        def put(x_NL: np.ndarray) -> jax.Array:
            x_BL = np.pad(x_NL, ((0, missing), (0, 0)))
            return jax.make_array_from_callback(
                x_BL.shape, sharding, lambda place: x_BL[place]
            )

        return jax.tree.map(put, batch)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out rows whose loss is measured while training."""

    reading: OrderedReading
    read_rows: ReadRows
    count: int  # Of the rows, which are read from the first on.

    @classmethod
    def of(cls, program: Program) -> HeldOut | None:
        """Returns the validation rows of an experiment; None if it names none."""
        experiment = program.experiment
        validation = experiment.validation
        if validation is None:
            return None
        read_rows, count = _in_order(validation.data, experiment.seq_len)
        return cls(reading_of(program), read_rows, min(validation.num_sequences, count))

    def loss(self, params: Params) -> float:
        """Returns the mean cross-entropy of the held-out targets, in nats."""
        total, count = 0.0, 0.0
        numbers = self.reading.batches(np.arange(self.count))
        batches = (self.read_rows(rows) for rows in numbers)
        read = self.reading.read_batches(params, ((x.weights_BL, x) for x in batches))
        for weights_NL, found in read:
            counts_NL = np.asarray(weights_NL, np.float64)
            total += float(np.sum(found.ce_NL * counts_NL))
            count += float(np.sum(counts_NL))
        return total / count


def _in_order(data: PreparedText | Answers, seq_len: int) -> tuple[ReadRows, int]:
    """Returns how the rows of held-out data are read, and how many there are."""
    if isinstance(data, Answers):
        rows = data.open_rows(seq_len=seq_len, seed=0)
        return rows.read, rows.rows_per_epoch
    dataset = data.open(seq_len=seq_len)
    return lambda numbers: causal_batch(dataset.read(numbers)), len(dataset)


def reading_of(program: Program) -> OrderedReading:
    """Returns how the student of `program` reads, in batches of the training size."""
    experiment = program.experiment
    return OrderedReading(
        read=token_reader(program.student, experiment.loss_chunk_tokens),
        partitioning=program.partitioning,
        batch_size=experiment.batch_size // experiment.num_microbatches,
    )


def _on_host(
    what: What, statistics: TokenStatistics, count: int
) -> tuple[What, OnHost]:
    on_host = jax.tree.map(lambda x_BL: np.asarray(x_BL)[:count], statistics)
    return what, OnHost(on_host.ce_BL, on_host.rank_BL, on_host.entropy_BL)

"""Sequences read in order by a model that does not learn from them.

Dimensions: N sequences, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.reading.rows import causal_batch
from salt_jax.eval_step import ReadTokens, token_reader
from salt_jax.losses import TokenStatistics
from salt_jax.model.transformer import Params
from salt_jax.partitioning import Partitioning
from salt_jax.program import Program


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
        pending = None
        for ids in batches:
            sequences = dataset.read(ids)
            statistics = self.read(params, self._on_mesh(sequences))
            # The devices read these while the host looks at those before.
            if pending is not None:
                yield _on_host(*pending)
            pending = (sequences, statistics, ids)
        if pending is not None:
            yield _on_host(*pending)

    def _on_mesh(self, sequences: Sequences) -> Batch:
        missing = self.batch_size - len(sequences.tokens)
        batch = causal_batch(sequences)
        sharding = self.partitioning.sharding("batch", "length")

        def put(x_NL: np.ndarray) -> jax.Array:
            x_BL = np.pad(x_NL, ((0, missing), (0, 0)))
            return jax.make_array_from_callback(
                x_BL.shape, sharding, lambda place: x_BL[place]
            )

        return jax.tree.map(put, batch)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out text whose loss is measured while training."""

    reading: OrderedReading
    dataset: PreparedDataset
    ids: np.ndarray

    @classmethod
    def of(cls, program: Program) -> HeldOut | None:
        """Returns the validation text of an experiment; None if it names none."""
        experiment = program.experiment
        if experiment.validation is None:
            return None
        dataset = experiment.validation.data.open(seq_len=experiment.seq_len)
        count = min(experiment.validation.num_sequences, len(dataset))
        return cls(reading_of(program), dataset, np.arange(count))

    def loss(self, params: Params) -> float:
        """Returns the mean cross-entropy of the held-out tokens, in nats."""
        total, count = 0.0, 0
        for tokens in self.reading(params, self.dataset, self.ids):
            total += tokens.ce_NL.sum(where=tokens.is_target, dtype=np.float64)
            count += int(tokens.is_target.sum())
        return total / count


def reading_of(program: Program) -> OrderedReading:
    """Returns how the student of `program` reads, in batches of the training size."""
    experiment = program.experiment
    return OrderedReading(
        read=token_reader(program.student, experiment.loss_chunk_tokens),
        partitioning=program.partitioning,
        batch_size=experiment.batch_size // experiment.num_microbatches,
    )


def _on_host(
    sequences: Sequences, statistics: TokenStatistics, ids: np.ndarray
) -> TokensRead:
    on_host = jax.tree.map(lambda x_BL: np.asarray(x_BL)[: len(ids)], statistics)
    return TokensRead(
        sequences, on_host.ce_BL, on_host.rank_BL, on_host.entropy_BL, ids
    )

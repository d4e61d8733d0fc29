"""Rows of denoising examples, which together use every token of the text.

`RowPlan` assigns fragments of documents to each row. Each fragment becomes one example:
the begin token or a mode token, then the inputs, then the targets. Only targets count
in the loss.

Dimensions: B rows, P fragments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from salt_jax.batch import Batch
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.fragments import Fragments, fragments_of
from salt_jax.data.reading.objectives import Denoiser, Example, Mixture
from salt_jax.data.reading.packing import packed
from salt_jax.data.reading.row_plan import RowPlan
from salt_jax.data.reading.rows import SequenceStream
from salt_jax.data.vocabulary import Vocabulary

_MASK_64 = (1 << 64) - 1


class DenoisedRows:
    """The rows of a mixture of denoisers. Thread-safe."""

    def __init__(
        self,
        dataset: PreparedDataset,
        ids: np.ndarray | None,
        *,
        seed: int,
        mixture: Mixture,
        vocabulary: Vocabulary,
    ):
        """Plans the rows of the sequences `ids`, int64; None is all of the dataset.

        Raises:
          ValueError: there are fewer sequences than denoisers need, a row has no room
            for text, or the vocabulary lacks a sentinel or a mode token.
        """
        self.dataset = dataset
        self.stream = SequenceStream(dataset, ids, seed)
        self._denoisers = mixture.denoisers
        self._has_prefix = mixture.has_prefix
        row_len = dataset.manifest.seq_len
        self.plan = RowPlan(
            num_sequences=len(self.stream),
            seq_len=row_len,
            capacities=[_capacity(x, row_len) for x in mixture.denoisers],
            weights=[int(weight) for weight in mixture.weights],
            seed=seed,
        )
        self._check_shares()
        self._sentinels = [
            _Sentinels.of(denoiser, capacity, vocabulary)
            for denoiser, capacity in zip(
                mixture.denoisers, self.plan.capacities, strict=True
            )
        ]
        self._begin_ids = np.array(
            [_begin_id(x, vocabulary) for x in mixture.denoisers]
        )
        logging.info("%s", self)

    def __str__(self) -> str:
        """Returns the denoisers, their weights and the number of rows, in one line."""
        names = ", ".join(type(x).__name__ for x in self._denoisers)
        shares = ":".join(map(str, self.plan.weights))
        return (
            f"{names} at {shares}: {self.rows_per_epoch:,} rows for "
            f"{self.plan.num_sequences:,} sequences, {self.plan.fill:.1%} full"
        )

    @property
    def rows_per_epoch(self) -> int:
        """The number of rows in an epoch."""
        return self.plan.rows_per_epoch

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the split and of the selected ids."""
        return self.stream.fingerprint()

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays.

        Raises:
          ValueError: a denoiser made more tokens than fit a row.
        """
        texts = self.plan.texts(numbers)
        fragments = fragments_of(self.stream, texts.begins, texts.ends)
        kinds = texts.kinds[fragments.rows]
        examples = self._examples(fragments, kinds)
        self._check_room(examples, fragments, texts.kinds)
        return packed(
            examples,
            fragments.rows,
            self._begin_ids[kinds],
            shape=(len(texts.kinds), self.plan.seq_len),
            pad_id=self.dataset.manifest.pad_id,
            has_prefix=self._has_prefix,
        )

    def _examples(self, fragments: Fragments, kinds: np.ndarray) -> list[Example]:
        """Applies to each fragment the denoiser whose index is in `kinds` [P]."""
        draws = _Draws(self.stream.seed)
        places = zip(fragments.epochs, fragments.ids, fragments.offsets, strict=True)
        begins = fragments.begins_in_rows()
        spans = zip(begins.tolist(), (begins + fragments.lengths).tolist(), strict=True)
        return [
            self._denoisers[kind].denoise(
                text, draws.at(*place), self._sentinels[kind].between(*span)
            )
            for kind, text, place, span in zip(
                kinds.tolist(), fragments.texts(), places, spans, strict=True
            )
        ]

    def _check_room(
        self, examples: Sequence[Example], fragments: Fragments, kinds: np.ndarray
    ) -> None:
        made = [len(inputs) + len(targets) for inputs, targets in examples]
        made_of_row = np.bincount(fragments.rows, weights=made, minlength=len(kinds))
        text_of_row = np.bincount(fragments.rows, weights=fragments.lengths)
        for row in np.flatnonzero(made_of_row > self.plan.seq_len)[:1]:
            raise ValueError(
                f"{self._denoisers[kinds[row]]} made {made_of_row[row]:.0f} tokens of "
                f"{text_of_row[row]:.0f}, and a row has {self.plan.seq_len}: its "
                f"capacity, {self.plan.capacities[kinds[row]]}, must be what always "
                "fits."
            )

    def _check_shares(self) -> None:
        for denoiser, count in zip(
            self._denoisers, self.plan.sequences_of_kinds, strict=True
        ):
            if not count:
                raise ValueError(
                    f"{self.plan.num_sequences:,} sequences of {self.dataset.path} are "
                    f"too few for the shares {tuple(self.plan.weights)}: {denoiser} "
                    "would get none."
                )


class _Draws:
    """Random numbers that depend only on the seed and on a place in the data.

    The place is part of the counter of a Philox generator, so each place has a stream
    of its own.
    """

    def __init__(self, seed: int):
        self._seed = seed & _MASK_64
        self._philox = np.random.Philox(0)
        self._state: Any = {**self._philox.state, "buffer_pos": 4}  # No leftovers.
        self._generator = np.random.Generator(self._philox)

    def at(self, epoch: int, sequence_id: int, offset: int) -> np.random.Generator:
        """Returns the generator of a place; the object is reused by the next call."""
        words = {"key": [self._seed, epoch], "counter": [0, offset, sequence_id, 0]}
        arrays = {name: np.array(x, np.uint64) for name, x in words.items()}
        self._philox.state = self._state | {"state": arrays}
        return self._generator


@dataclasses.dataclass(frozen=True)
class _Sentinels:
    """The sentinels of a denoiser, and how many of them a stretch of text may use."""

    tokens: np.ndarray  # int32
    counts: list[int]  # counts[n]: the sentinels for the first n tokens of a row.

    @classmethod
    def of(
        cls, denoiser: Denoiser, capacity: int, vocabulary: Vocabulary
    ) -> _Sentinels:
        """Looks up the sentinels that a row of `capacity` tokens of text may use."""
        counts = [denoiser.num_sentinels(n) for n in range(capacity + 1)]
        if counts[0] or counts != sorted(counts):
            raise ValueError(
                f"The num_sentinels of {denoiser} must be 0 of 0 tokens, and never "
                "fall as the tokens get more: fragments share them by their lengths."
            )
        try:
            names = [f"<extra_id_{index}>" for index in range(counts[-1])]
            tokens = [vocabulary.piece_id(name) for name in names]
        except ValueError as error:
            raise ValueError(
                f"{denoiser} needs {counts[-1]} sentinels, <extra_id_0> and on, for "
                f"rows with {capacity} tokens of text. {error}"
            ) from error
        return cls(np.array(tokens, np.int32), counts)

    def between(self, begin: int, end: int) -> np.ndarray:
        """Returns the sentinels for the text from `begin` to `end` of a row.

        The fragments of a row together use at most what their tokens would use as one
        fragment. A short fragment gets a sentinel as often as its length warrants.
        """
        return self.tokens[: self.counts[end] - self.counts[begin]]


def _capacity(denoiser: Denoiser, row_len: int) -> int:
    capacity = denoiser.capacity(row_len)
    if capacity < 1:
        raise ValueError(
            f"A row of {row_len} tokens has room for {capacity} tokens of text in "
            f"{denoiser}: prepare longer sequences."
        )
    return capacity


def _begin_id(denoiser: Denoiser, vocabulary: Vocabulary) -> int:
    mode_token = denoiser.mode_token
    if mode_token is None:
        return vocabulary.begin_id
    return vocabulary.piece_id(mode_token)

"""Training objectives: how text is split into inputs and targets.

A denoiser turns a fragment of one document into an `Example`. The denoisers here are
those of UL2 [1] for decoder-only models: the model attends to the inputs in both
directions and then predicts the targets one by one. Any frozen dataclass with the
members of `Denoiser` can be used instead.

Dimensions: N tokens of a fragment, S sentinels.

[1] Y. Tay et al., UL2: Unifying language learning paradigms, arXiv 2205.05131.
"""

from __future__ import annotations

import dataclasses
import fractions
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Example(NamedTuple):
    """Inputs to condition on and targets to predict, two int32 arrays."""

    inputs: np.ndarray
    targets: np.ndarray


class Denoiser(Protocol):
    """Makes an example of a fragment of text.

    A frozen dataclass whose methods are pure functions; it is called from several
    threads.
    """

    @property
    def mode_token(self) -> str | None:
        """The vocabulary piece that an example begins with; None: the begin token."""

    @property
    def has_prefix(self) -> bool:
        """Whether examples may have inputs."""

    def capacity(self, row_len: int) -> int:
        """Returns how many tokens of text always fit a row of `row_len` tokens.

        They must fit however the text splits into fragments. Rows are filled with this
        many tokens, so a smaller number wastes room.
        """

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns the sentinels that `num_tokens` of text may use; never decreases."""

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns the example of a fragment of a document.

        Args:
          tokens: int32 [N], at least one; read-only.
          draw: The only source of randomness; valid during this call.
          sentinels: int32 [S], each to be used at most once. The fragments of a row
            share the sentinels that the row's tokens may use.
        """


class _NothingAdded:
    """A denoiser that adds no tokens to its text."""

    def capacity(self, row_len: int) -> int:
        """Returns `row_len`: text fills the whole row."""
        return row_len

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns 0: no sentinels are used."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(_NothingAdded):
    """Causal language modeling: each token is predicted from those before it."""

    mode_token: str | None = None
    has_prefix = False

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns all of the tokens [N] as targets."""
        return Example(tokens[:0], tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(_NothingAdded):
    """Prefix language modeling: the rest of a fragment is predicted from its prefix.

    The length of the prefix is uniform around its mean, from 0 or up to the end: with a
    mean of 0.25 from 0 to half of the tokens, with 0.75 from half to all but one.
    """

    mean_share: float = 0.25  # Mean length of the prefix, as a share of the tokens.
    mode_token: str | None = None
    has_prefix = True

    def __post_init__(self):
        if not 0.0 < self.mean_share < 1.0:
            raise ValueError(
                f"mean_share must be above 0 and below 1, got {self.mean_share}."
            )

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Splits the tokens [N] in two; at least one is a target."""
        longest = min(int(2 * self.mean_share * len(tokens)), len(tokens) - 1)
        shortest = max(int((2 * self.mean_share - 1) * len(tokens)), 0)
        cut = int(draw.integers(shortest, longest + 1))
        return Example(tokens[:cut], tokens[cut:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Span corruption: spans are replaced by sentinels in the inputs, and predicted.

    A fragment too short for a span is learned as plain text.
    """

    rate: float = 0.15  # The share of tokens that are corrupted.
    mean_length: float = 3.0  # Tokens per span.
    mode_token: str | None = None
    has_prefix = True

    def __post_init__(self):
        if not 0.0 < self.rate < 1.0 or not self.mean_length >= 1.0:
            raise ValueError(
                "SpanCorruption needs a rate between 0 and 1 and a mean_length of at "
                f"least 1; got rate={self.rate}, mean_length={self.mean_length}."
            )
        if self._density > 1 - fractions.Fraction(str(self.rate)):
            raise ValueError(
                f"rate={self.rate} with mean_length={self.mean_length} leaves less "
                "than a token between two spans: lower the rate, or lengthen the spans."
            )

    @functools.cached_property
    def _density(self) -> fractions.Fraction:
        """Spans per token, as an exact fraction: 0.15 / 3 is 1 / 20."""
        return fractions.Fraction(str(self.rate)) / fractions.Fraction(
            str(self.mean_length)
        )

    def capacity(self, row_len: int) -> int:
        """Returns how many tokens fit a row together with two sentinels per span."""
        tokens = row_len
        while tokens + 2 * self.num_sentinels(tokens) > row_len:
            tokens -= 1
        return tokens

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns the number of spans, and so of sentinels, in `num_tokens` of text."""
        return math.floor(num_tokens * self._density + fractions.Fraction(1, 2))

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Moves spans of the tokens [N] from the inputs to the targets.

        In the inputs, a sentinel stands in place of each corrupted span; in the
        targets, the same sentinel stands before that span. The first token always
        stays in the inputs, and the last one always goes to the targets.
        """
        num_spans = min(len(sentinels), len(tokens) // 2)
        if not num_spans:
            return Example(tokens[:0], tokens)
        num_noise = round(len(tokens) * self.rate)
        num_noise = min(max(num_noise, num_spans), len(tokens) - num_spans)
        kept_ends = _random_ends(len(tokens) - num_noise, num_spans, draw)
        noise_ends = _random_ends(num_noise, num_spans, draw)
        noise_begins = np.zeros(num_spans, np.int64)
        noise_begins[1:] = noise_ends[:-1]
        turns = np.zeros(len(tokens), np.int8)
        turns[kept_ends + noise_begins] = 1
        turns[(kept_ends + noise_ends)[:-1]] = -1
        is_noise = np.cumsum(turns, dtype=np.int8) > 0
        marks = sentinels[:num_spans]
        return Example(
            _with_marks(tokens[~is_noise], kept_ends, marks),
            _with_marks(tokens[is_noise], noise_begins, marks),
        )


def _random_ends(total: int, num_parts: int, draw: np.random.Generator) -> np.ndarray:
    """Splits `total` into positive parts at random, uniformly; returns their ends."""
    ends = np.full(num_parts, total)
    cuts = draw.choice(total - 1, num_parts - 1, replace=False, shuffle=False)
    ends[:-1] = np.sort(cuts) + 1
    return ends


def _with_marks(
    tokens: np.ndarray, places: np.ndarray, marks: np.ndarray
) -> np.ndarray:
    """Inserts `marks` before the tokens at `places`; returns int32."""
    marked = np.empty(len(tokens) + len(marks), np.int32)
    is_token = np.ones(len(marked), bool)
    places = places + np.arange(len(marks))
    is_token[places] = False
    marked[is_token] = tokens
    marked[places] = marks
    return marked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several denoisers, each with its share of the text."""

    denoisers: Sequence[Denoiser]
    weights: Sequence[int]  # Proportions of sequences, such as (6, 2, 1, 1).

    def __post_init__(self):
        if not self.denoisers or len(self.denoisers) != len(self.weights):
            raise ValueError(
                f"A mixture has a weight for each denoiser, got {len(self.weights)} "
                f"weights for {len(self.denoisers)} denoisers."
            )
        for denoiser, weight in zip(self.denoisers, self.weights, strict=True):
            if weight != int(weight) or weight < 1:
                raise ValueError(
                    f"Weights are whole numbers from 1 up, such as (6, 2, 1, 1); "
                    f"{denoiser} has {weight}. Leave out denoisers that are not wanted."
                )

    @property
    def has_prefix(self) -> bool:
        """Whether examples may have inputs."""
        return any(denoiser.has_prefix for denoiser in self.denoisers)


Objective = Denoiser | Mixture


def mixture_of(objective: Objective) -> Mixture:
    """Returns the objective as a mixture, possibly of a single denoiser."""
    if isinstance(objective, Mixture):
        return objective
    return Mixture(denoisers=(objective,), weights=(1,))

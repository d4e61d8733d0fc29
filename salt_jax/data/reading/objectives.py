"""How text becomes what is given and what is to be predicted, as values.

A denoiser turns a piece of one document into an `Example`. Those here are of UL2 [1],
as decoder-only models learn them: the model reads the inputs, seeing all of them at
once, and then predicts the targets one by one. Any other frozen dataclass with the
members of `Denoiser` can stand in their place.

Dimensions: N tokens of a piece, S sentinels.

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
    """What is given and what is to be predicted, int32 of any two lengths."""

    inputs: np.ndarray
    targets: np.ndarray


class Denoiser(Protocol):
    """Makes an example of a piece of text. A frozen dataclass, so that it has a name.

    Must be a pure function of its fields and arguments; called from several threads.
    """

    @property
    def mode_token(self) -> str | None:
        """The piece of the vocabulary that an example begins with; None for none."""

    @property
    def has_prefix(self) -> bool:
        """Whether examples may have inputs."""

    def capacity(self, row_len: int) -> int:
        """Returns how many tokens of text fit a row, into whatever pieces they fall.

        It is what the rows are filled with, so it should be the most that always fits.
        """

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns how many sentinels so much text in a row may use; more for more."""

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns the example of a piece of a document.

        Args:
          tokens: int32 [N], at least one; not to be changed.
          draw: The only source of chance, for this call alone.
          sentinels: int32 [S], the first ones of the vocabulary, to be used at most
            once. The pieces of a row share out what all of their tokens may use.
        """


class _NothingAdded:
    """A denoiser whose examples have the tokens of their text and no others."""

    def capacity(self, row_len: int) -> int:
        """Returns how many tokens of text fit a row: as many as it has."""
        return row_len

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns how many sentinels so much text in a row may use: none."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(_NothingAdded):
    """Each token is predicted from those before it."""

    mode_token: str | None = None
    has_prefix = False

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns all of the tokens [N] as targets."""
        return Example(tokens[:0], tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(_NothingAdded):
    """A piece's beginning, of any length up to twice the mean, gives its rest."""

    mean_share: float = 0.25  # Of the tokens, in the prefix.
    mode_token: str | None = None
    has_prefix = True

    def __post_init__(self):
        if not 0.0 < self.mean_share <= 0.5:
            raise ValueError(
                f"mean_share must be above 0 and up to 0.5, got {self.mean_share}: "
                "prefixes are up to twice as long."
            )

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns the tokens [N] cut in two; at least one is a target."""
        longest = min(int(2 * self.mean_share * len(tokens)), len(tokens) - 1)
        cut = int(draw.integers(longest + 1))
        return Example(tokens[:cut], tokens[cut:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Spans of a piece are taken out of it, and predicted behind their sentinels.

    A piece so short that no span falls to it is learnt as plain text.
    """

    rate: float = 0.15  # The share of the tokens that is taken out.
    mean_length: float = 3.0  # Tokens in a span.
    mode_token: str | None = None
    has_prefix = True

    def __post_init__(self):
        if not 0.0 < self.rate < 1.0 or not self.mean_length >= 1.0:
            raise ValueError(
                "A span corruption takes out a rate between 0 and 1, in spans of a "
                f"mean_length of at least 1; got rate={self.rate}, "
                f"mean_length={self.mean_length}."
            )
        if self._density > 1 - fractions.Fraction(str(self.rate)):
            raise ValueError(
                f"rate={self.rate} with mean_length={self.mean_length} leaves less "
                "than a token between two spans: lower the rate, or lengthen the spans."
            )

    @functools.cached_property
    def _density(self) -> fractions.Fraction:
        """Spans for each token, without the rounding of 0.15: 20 tokens make one."""
        return fractions.Fraction(str(self.rate)) / fractions.Fraction(
            str(self.mean_length)
        )

    def capacity(self, row_len: int) -> int:
        """Returns how many tokens of text, each span with two sentinels, fit a row."""
        tokens = row_len
        while tokens + 2 * self.num_sentinels(tokens) > row_len:
            tokens -= 1
        return tokens

    def num_sentinels(self, num_tokens: int) -> int:
        """Returns how many spans so much text in a row has, each with its sentinel."""
        return math.floor(num_tokens * self._density + fractions.Fraction(1, 2))

    def denoise(
        self, tokens: np.ndarray, draw: np.random.Generator, sentinels: np.ndarray
    ) -> Example:
        """Returns the tokens [N] with spans moved to the targets.

        The inputs are kept spans with a sentinel after each, the targets the spans
        between with the same sentinels before them. The first token is always kept and
        the last one always taken out.
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
    """Returns where parts of `total` end, int64; all ways to cut it are as likely."""
    ends = np.full(num_parts, total)
    cuts = draw.choice(total - 1, num_parts - 1, replace=False, shuffle=False)
    ends[:-1] = np.sort(cuts) + 1
    return ends


def _with_marks(
    tokens: np.ndarray, places: np.ndarray, marks: np.ndarray
) -> np.ndarray:
    """Returns the tokens with `marks` put before those at `places`, int32."""
    marked = np.empty(len(tokens) + len(marks), np.int32)
    is_token = np.ones(len(marked), bool)
    places = places + np.arange(len(marks))
    is_token[places] = False
    marked[is_token] = tokens
    marked[places] = marks
    return marked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several denoisers, each of which gets its share of the text."""

    denoisers: Sequence[Denoiser]
    weights: Sequence[int]  # Of so many sequences together, how many each gets.

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
                    f"{denoiser} has {weight}. Leave out what is not to be learnt."
                )

    @property
    def has_prefix(self) -> bool:
        """Whether examples may have inputs."""
        return any(denoiser.has_prefix for denoiser in self.denoisers)


Objective = Denoiser | Mixture


def mixture_of(objective: Objective) -> Mixture:
    """Returns the objective as a mixture, which may be of one denoiser."""
    if isinstance(objective, Mixture):
        return objective
    return Mixture(denoisers=(objective,), weights=(1,))

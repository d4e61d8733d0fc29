"""Where soft labels stop to pay, as tokens grow."""

from __future__ import annotations

import math
from collections.abc import Sequence


def crossing(
    tokens: Sequence[float], one_hot: Sequence[float], soft: Sequence[float]
) -> float:
    """Returns the tokens from which on one-hot labels give the lower risk.

    The ratio of both risks is interpolated, on logarithmic axes, between the last
    number of tokens at which soft labels win and the next one.

    Args:
      tokens: Of the students, increasing.
      one_hot: The risk after training on so many tokens with one-hot labels.
      soft: The same with soft labels.

    Returns:
      The tokens; 0 if soft labels never win, infinity if they win with the most tokens.
    """
    leads = [math.log(a / b) for a, b in zip(one_hot, soft, strict=True)]
    wins = [i for i, lead in enumerate(leads) if lead > 0]
    if not wins:
        return 0.0
    last = wins[-1]
    if last == len(leads) - 1:
        return math.inf
    share = leads[last] / (leads[last] - leads[last + 1])
    low, high = math.log(tokens[last]), math.log(tokens[last + 1])
    return math.exp(low + share * (high - low))

"""The arrays of a shape in HLO text, and where they lie."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

_BITS = {"pred": 8}  # For other dtypes, the first number in the name.
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"\bS\((\d+)\)")
_HOST_MEMORY = "5"


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape."""

    dims: Sequence[int]
    bytes: float
    in_memory: bool  # False: on the chip, as XLA for TPUs places what it uses soon.


def arrays(text: str) -> list[Array]:
    """Returns the arrays of a shape, which may be a tuple."""
    return [_array(*found) for found in _ARRAY.findall(text)]


def _array(dtype: str, dims: str, layout: str) -> Array:
    named = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype, int(named[0]) if named else 0)
    sizes = [int(dim.strip("<=")) for dim in dims.split(",") if dim]
    space = _SPACE.search(layout)
    in_memory = space is None or space[1] == _HOST_MEMORY
    return Array(sizes, math.prod(sizes) * bits / 8, in_memory)

"""The input of a training or evaluation step.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import flax.struct
import jax


@flax.struct.dataclass
class Batch:
    """Rows of equal length, with several documents packed into each row.

    Fields are numpy arrays on the host and `jax.Array`s on the mesh.
    """

    tokens_BL: jax.Array  # int32, what the model reads: targets shifted right.
    targets_BL: jax.Array  # int32, the next token at each position.
    weights_BL: jax.Array  # float32, the weight of each target; 0 for padding.
    segments_BL: jax.Array  # int32, the document within the row from 1; 0 is padding.
    positions_BL: jax.Array  # int32, the position within the document.
    # bool, True for prefix tokens, which the whole document attends to. None if all
    # rows are causal, so that causal programs do not pay for it.
    prefix_BL: jax.Array | None = None

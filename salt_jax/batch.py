"""What a step is fed.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import flax.struct
import jax


@flax.struct.dataclass
class Batch:
    """Token sequences of one length, several documents packed into each.

    Fields are numpy arrays on the host and `jax.Array`s on the mesh.
    """

    tokens_BL: jax.Array  # int32, what the model reads: targets shifted right.
    targets_BL: jax.Array  # int32, the next token at each position.
    weights_BL: jax.Array  # float32, how much each target counts; 0 for padding.
    segments_BL: jax.Array  # int32, the document within the row from 1; 0 is padding.
    positions_BL: jax.Array  # int32, the position within the document.
    # bool, True where a token is attended to by its whole document (a prefix). None
    # when all of the batch is causal, so that causal programs do not pay for it.
    prefix_BL: jax.Array | None = None

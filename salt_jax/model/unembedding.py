"""The last layer of a decoder, kept apart so that a loss can apply it in pieces.

Dimensions: B batch, L length, D embed, V vocabulary.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Unembedding:
    """What a decoder knows just before its logits: hidden states and the embedding.

    Logits over a large vocabulary are many times the size of both.
    """

    hidden_BLD: jax.Array  # After the final norm, in the compute dtype.
    embedding_VD: jax.Array
    softcap: float | None = flax.struct.field(pytree_node=False, default=None)

    def logits(self) -> jax.Array:
        """Returns the logits_BLV in float32."""
        logits_BLV = jnp.einsum(
            "BLD,VD->BLV",
            self.hidden_BLD,
            self.embedding_VD.astype(self.hidden_BLD.dtype),
            preferred_element_type=jnp.float32,
        )
        if self.softcap is None:
            return logits_BLV
        return self.softcap * jnp.tanh(logits_BLV / self.softcap)

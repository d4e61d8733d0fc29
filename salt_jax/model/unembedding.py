"""The unembedding, separate from the decoder so that a loss can apply it in chunks.

Dimensions: B batch, L length, D embed, V vocabulary.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Unembedding:
    """Final hidden states and the embedding matrix: logits in factored form.

    Logits over a large vocabulary take many times the memory of both factors.
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
        return self.softcapped(logits_BLV)

    def softcapped(self, logits: jax.Array) -> jax.Array:
        """Returns softcap * tanh(logits / softcap), or the logits without a cap."""
        if self.softcap is None:
            return logits
        return self.softcap * jnp.tanh(logits / self.softcap)

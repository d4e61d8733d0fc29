"""The decoder: embedding, stacked blocks, unembedding.

Dimensions: B batch, L length, D embed, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from salt_jax.batch import Batch
from salt_jax.model.attention import Attention, AttentionContext
from salt_jax.model.attention_kernels import ATTENDED
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import GatedMLP, RMSNorm, weight
from salt_jax.model.unembedding import Unembedding
from salt_jax.partitioning import Partitioning
from salt_jax.vocab_shards import look_up

EMBEDDING_AXES = ("vocab", "vocab_embed")
Params = Any  # Nested dicts of arrays, as `Transformer.init` makes them.

_REMAT = {
    "full": None,
    "save_dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    "save_dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """Attention and a feed-forward, each on a norm and added to its input."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, context: AttentionContext
    ) -> tuple[jax.Array, None]:
        config = self.config
        attention = Attention(config, self.partitioning, name="attention")
        x_BLD += attention(RMSNorm(config, name="attention_norm")(x_BLD), context)
        mlp = GatedMLP(config, self.partitioning, name="mlp")
        x_BLD += mlp(RMSNorm(config, name="mlp_norm")(x_BLD))
        return self.partitioning.constrain(x_BLD, "batch", "length", "act_embed"), None


class Transformer(nn.Module):
    """A decoder language model, up to but without its logits."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(self, batch: Batch) -> Unembedding:
        """Returns the hidden states of `batch`, with the embedding that reads them."""
        config = self.config
        V, D = config.vocab_size, config.embed_dim
        embedding_VD = weight(self, "embedding_VD", (V, D), EMBEDDING_AXES, fan_in=D)
        x_BLD = look_up(self.partitioning, embedding_VD, batch.tokens_BL, config.dtype)
        if config.scale_embedding:
            x_BLD *= jnp.asarray(D**0.5, x_BLD.dtype)
        x_BLD = self.partitioning.constrain(x_BLD, "batch", "length", "act_embed")
        context = AttentionContext.of(batch, config, self.partitioning)
        x_BLD = self._blocks(x_BLD, context)
        hidden_BLD = RMSNorm(config, name="final_norm")(x_BLD)
        if not config.tied_embedding:
            embedding_VD = weight(
                self, "unembedding_VD", (V, D), EMBEDDING_AXES, fan_in=D
            )
        return Unembedding(hidden_BLD, embedding_VD, config.logit_softcap)

    def _blocks(self, x_BLD: jax.Array, context: AttentionContext) -> jax.Array:
        config, block = self.config, Block
        if config.remat != "none":
            # Inside a scan nothing can be shared between the passes; outside, the
            # compiler would undo the recomputation unless told not to.
            block = nn.remat(
                Block,
                policy=_REMAT[config.remat],
                prevent_cse=not config.scan_layers,
            )
        if config.scan_layers:
            stack = _stack(block, config.num_layers)
            return stack(config, self.partitioning, name="layers")(x_BLD, context)[0]
        for i in range(config.num_layers):
            x_BLD, _ = block(config, self.partitioning, name=f"layer_{i}")(
                x_BLD, context
            )
        return x_BLD


def _stack(block: type[nn.Module], num_layers: int) -> Any:
    """Returns `num_layers` copies of `block`, compiled once.

    Every parameter of the stack gains a leading "layers" axis.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def init_params(model: Transformer, key: jax.Array) -> Params:
    """Returns fresh parameters, boxed with their logical axes.

    Shapes do not depend on the batch; it only has to divide over the mesh. Nor do they
    on the attention, of which not each can do so short a batch.
    """
    shape = dataclasses.replace(model.config, attention="reference")
    model = model.clone(config=shape)
    rows = model.partitioning.size("batch")
    columns = model.partitioning.size("length")
    zeros_BL = jnp.zeros((rows, columns), jnp.int32)
    weights_BL = jnp.zeros((rows, columns), jnp.float32)
    batch = Batch(zeros_BL, zeros_BL, weights_BL, zeros_BL, zeros_BL)
    return model.init(key, batch)


def abstract_params(model: Transformer, dtype: str = "float32") -> Params:
    """Returns the parameters as shapes and shardings in `dtype`; allocates nothing."""
    abstract = model.partitioning.abstract(
        lambda key: init_params(model, key), jax.random.key(0)
    )
    return jax.tree.map(lambda x: x.update(dtype=jnp.dtype(dtype)), abstract)


def stack_layers(params: Params, num_layers: int) -> Params:
    """Returns the parameters of an unrolled model as those of a scanned one."""
    inner = dict(params["params"])
    layers = [inner.pop(f"layer_{i}") for i in range(num_layers)]
    return {
        "params": inner | {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    }

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
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.mesh.vocab_shards import look_up
from salt_jax.model.attention import PROJECTED, Attention
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.attention_kernels import ATTENDED
from salt_jax.model.cache import Cache
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import GatedMLP, RMSNorm, weight
from salt_jax.model.parameters import STACK, Parameter, layer_name
from salt_jax.model.unembedding import Unembedding

Params = Any  # Nested dicts of arrays, as `Transformer.init` returns them.

_REMAT = {
    "full": None,
    "save_attention": jax.checkpoint_policies.save_only_these_names(
        PROJECTED, ATTENDED
    ),
    "save_dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    "save_dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


# The carry from block to block: activations and, while decoding, the cache.
Carry = tuple[jax.Array, Cache | None]


class Block(nn.Module):
    """A pre-norm residual block: attention, then a gated feed-forward."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(
        self, carry: Carry, context: AttentionContext, layer: jax.Array | int | None
    ) -> tuple[Carry, None]:
        config = self.config
        x_BLD, cache = carry
        attention = Attention(config, self.partitioning, name="attention")
        mlp = GatedMLP(config, self.partitioning, name="mlp")
        y_BLD = RMSNorm(config, name="attention_norm")(x_BLD)
        y_BLD, cache = attention(y_BLD, context, cache, layer)
        x_BLD += self._post_norm("attention_post_norm", y_BLD)
        y_BLD = mlp(RMSNorm(config, name="mlp_norm")(x_BLD))
        x_BLD += self._post_norm("mlp_post_norm", y_BLD)
        x_BLD = self.partitioning.constrain(x_BLD, "batch", "length", "act_embed")
        return (x_BLD, cache), None

    def _post_norm(self, name: str, y_BLD: jax.Array) -> jax.Array:
        return (
            RMSNorm(self.config, name=name)(y_BLD) if self.config.post_norms else y_BLD
        )


class Transformer(nn.Module):
    """A decoder language model up to its final norm; `Unembedding` makes logits."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(
        self, batch: Batch, cache: Cache | None = None
    ) -> Unembedding | tuple[Unembedding, Cache]:
        """Returns the hidden states of `batch` and the embedding that unembeds them.

        Args:
          batch: The tokens to read.
          cache: Keys and values of earlier tokens of the same rows. If given, it is
            returned too, with `batch` in its next columns. Shorter texts are padded on
            the left with segment 0; positions count from the start of the text. The
            cache must have room: an overflow is an error only if the batch alone is
            longer than the cache, because the filled columns are a traced number.

        Raises:
          ValueError: the attention that the config names cannot be used, or the batch
            is larger than the cache.
        """
        config = self.config
        embedding_VD = self._embedding("embedding_VD")
        x_BLD = look_up(self.partitioning, embedding_VD, batch.tokens_BL, config.dtype)
        if config.scale_embedding:
            x_BLD *= jnp.asarray(config.embed_dim**0.5, x_BLD.dtype)
        x_BLD = self.partitioning.constrain(x_BLD, "batch", "length", "act_embed")
        if cache is not None:
            cache = cache.admit(batch)
        context = AttentionContext.of(batch, config, self.partitioning, cache)
        x_BLD, cache = self._blocks((x_BLD, cache), context)
        hidden_BLD = RMSNorm(config, name="final_norm")(x_BLD)
        if not config.tied_embedding:
            embedding_VD = self._embedding("unembedding_VD")
        unembedding = Unembedding(hidden_BLD, embedding_VD, config.logit_softcap)
        return unembedding if cache is None else (unembedding, cache)

    def _embedding(self, name: str) -> jax.Array:
        """Declares a table with one row for each token of the vocabulary."""
        shape = (self.config.vocab_size, self.config.embed_dim)
        axes = ("vocab", "vocab_embed")
        scale = self.config.init_scale
        return weight(self, name, shape, axes, summed=("vocab_embed",), scale=scale)

    def _blocks(self, carry: Carry, context: AttentionContext) -> Carry:
        config, block = self.config, Block
        if config.remat != "none":
            # Outside a scan, common-subexpression elimination would undo the
            # rematerialization. Inside a scan it cannot.
            block = nn.remat(
                Block,
                policy=_REMAT[config.remat],
                prevent_cse=not config.scan_layers,
            )
        if config.scan_layers:
            is_alike = carry[1] is None and config.sliding_window is None
            layers = None if is_alike else jnp.arange(config.num_layers)
            stack = _stack(block, config.num_layers)
            return stack(config, self.partitioning, name=STACK)(carry, context, layers)[
                0
            ]
        for i in range(config.num_layers):
            carry, _ = block(config, self.partitioning, name=layer_name(i))(
                carry, context, i
            )
        return carry


def _stack(block: type[nn.Module], num_layers: int) -> Any:
    """Returns a scan over `num_layers` copies of `block`.

    Every parameter of the stack gains a leading axis, `STACK`.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),  # The context, and the layer's index or None.
        length=num_layers,
        metadata_params={nn.PARTITION_NAME: STACK},
    )


def init_params(model: Transformer, key: jax.Array) -> Params:
    """Returns freshly initialized parameters, each boxed as a `Parameter`.

    The parameters depend neither on the batch, which only has to divide over the mesh,
    nor on the attention kernel. The reference kernel accepts any length.
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
    """Returns the parameters as shapes with shardings in `dtype`."""
    abstract = model.partitioning.abstract(
        lambda key: init_params(model, key), jax.random.key(0)
    )
    return jax.tree.map(lambda x: x.update(dtype=jnp.dtype(dtype)), abstract)


def parameter_facts(model: Transformer) -> Params:
    """Returns the `ParameterFacts` of each parameter, in the tree of the parameters."""
    boxed = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(
        lambda parameter: parameter.facts,
        boxed,
        is_leaf=lambda node: isinstance(node, Parameter),
    )


def unstack_layers(params: Params, num_layers: int) -> Params:
    """Returns the parameters of a scanned model as those of an unrolled one."""
    inner = dict(params["params"])
    layers = inner.pop(STACK)
    for i in range(num_layers):
        inner[layer_name(i)] = jax.tree.map(lambda x, i=i: x[i], layers)
    return {"params": inner}

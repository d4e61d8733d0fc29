"""What each tensor of an architecture is in this model: its name, shape and arithmetic.

Dimensions: V vocabulary, D embed, F mlp, H heads, G key-value heads, K head_dim. A
projection of transformers has its outputs first; this model has its inputs first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.hugging_face.architectures import Architecture
from salt_jax.model.config import TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of transformers, and the array of this model that it is.

    The values of norms and embeddings may differ: a tensor's are `factor` times the
    array's, plus `offset`.
    """

    name: str
    parameter: str  # Our array, in a flat tree.
    layer: int | None  # Which of its first axis; None: the array is no stack.
    ours: tuple[int, ...]  # The shape of our array, or of a layer of it.
    num_inputs: int | None = None  # The dimensions summed over; None: it is no matrix.
    factor: float = 1.0
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in transformers."""
        if self.num_inputs is not None:
            return self._matrix[::-1]
        *heads, last = self.ours
        is_bias = self.parameter.endswith("_bias")  # Of all heads, in a row.
        return (math.prod(heads) * last,) if is_bias else self.ours

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """Returns a whole tensor as a view with our rows, heads still in a row."""
        if self.num_inputs is not None:
            return values.T
        return values.reshape(self.ours)

    def to_theirs(self, values: np.ndarray) -> np.ndarray:
        """Returns our whole array as a view with their rows."""
        if self.num_inputs is not None:
            return values.reshape(self._matrix).T
        return values.reshape(self.shape)

    def as_theirs(self, values: np.ndarray) -> np.ndarray:
        """Returns values of our array, any of them, as the tensor has them."""
        if (self.factor, self.offset) == (1.0, 0.0):
            return values
        return values.astype(np.float32) * np.float32(self.factor) + np.float32(
            self.offset
        )

    @property
    def _matrix(self) -> tuple[int, ...]:
        """The shape of ours with all inputs, and all outputs, in a row."""
        inputs, outputs = self.ours[: self.num_inputs], self.ours[self.num_inputs :]
        return math.prod(inputs), math.prod(outputs)


def tensors_of(model: TransformerConfig, architecture: Architecture) -> list[Tensor]:
    """Returns the tensors of `model` as a file of `architecture` has them, in order."""
    offset = float(model.zero_centered_norm) - float(architecture.is_gemma)
    root = model.embed_dim**0.5
    factor = (root if model.scale_embedding else 1.0) / (
        root if architecture.is_gemma else 1.0
    )
    V, D = model.vocab_size, model.embed_dim

    def outside(name: str, parameter: str, *ours: int, **options: Any) -> Tensor:
        return Tensor(
            name=f"{name}.weight",
            parameter=f"params.{parameter}",
            layer=None,
            ours=ours,
            **options,
        )

    tensors = [outside("model.embed_tokens", "embedding_VD", V, D, factor=factor)]
    for layer in range(model.num_layers):
        tensors += _of_layer(model, layer, offset)
    tensors.append(outside("model.norm", "final_norm.scale", D, offset=offset))
    if not model.tied_embedding:
        tensors.append(outside("lm_head", "unembedding_VD", V, D))
    return tensors


def shapes_of(
    model: TransformerConfig, architecture: Architecture, dtype: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns our arrays as shapes in `dtype`, by name."""
    return {
        tensor.parameter: jax.ShapeDtypeStruct(
            tensor.ours if tensor.layer is None else (model.num_layers, *tensor.ours),
            jnp.dtype(dtype),
        )
        for tensor in tensors_of(model, architecture)
    }


def _of_layer(model: TransformerConfig, layer: int, offset: float) -> Iterator[Tensor]:
    """Yields the tensors of one layer."""
    D, F, K = model.embed_dim, model.mlp_dim, model.head_dim
    H, G = model.num_heads, model.num_kv_heads
    ours = "params.layers" if model.scan_layers else f"params.layer_{layer}"

    def tensor(name: str, parameter: str, *shape: int, **options: Any) -> Tensor:
        return Tensor(
            name=f"model.layers.{layer}.{name}",
            parameter=f"{ours}.{parameter}",
            layer=layer if model.scan_layers else None,
            ours=shape,
            **options,
        )

    def norm(name: str, parameter: str, size: int = D) -> Tensor:
        return tensor(f"{name}.weight", f"{parameter}.scale", size, offset=offset)

    yield norm("input_layernorm", "attention_norm")
    for short, parameter, heads in (
        ("q", "query", H),
        ("k", "key", G),
        ("v", "value", G),
    ):
        theirs, mine = f"self_attn.{short}_proj", f"attention.{parameter}"
        yield tensor(f"{theirs}.weight", mine, D, heads, K, num_inputs=1)
        if model.qkv_bias:
            yield tensor(f"{theirs}.bias", f"{mine}_bias", heads, K)
        if model.qk_norm and short != "v":
            yield norm(f"self_attn.{short}_norm", f"{mine}_norm", K)
    yield tensor("self_attn.o_proj.weight", "attention.out", H, K, D, num_inputs=2)
    if model.post_norms:
        yield norm("post_attention_layernorm", "attention_post_norm")
        yield norm("pre_feedforward_layernorm", "mlp_norm")
        yield norm("post_feedforward_layernorm", "mlp_post_norm")
    else:
        yield norm("post_attention_layernorm", "mlp_norm")
    for short, shape in (("gate", (D, F)), ("up", (D, F)), ("down", (F, D))):
        yield tensor(f"mlp.{short}_proj.weight", f"mlp.{short}", *shape, num_inputs=1)

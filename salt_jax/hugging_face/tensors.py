"""The tensors of each transformers architecture: names, shapes and arithmetic.

A projection of transformers has its outputs first and its heads in a row; ours has its
inputs first and heads of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from salt_jax.hugging_face.architectures import Architecture
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.parameters import STACK, ParameterFacts, layer_name
from salt_jax.model.transformer import Transformer, parameter_facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of transformers and the array of this model that holds its values.

    The values of norms and embeddings may differ: tensor = factor * array + offset.
    """

    name: str
    parameter: str  # The name of our array, with dots: "params.layers.mlp.gate".
    facts: ParameterFacts  # Of our array.
    layer: int | None  # The tensor's index in a stack; None: the array is no stack.
    factor: float = 1.0
    offset: float = 0.0

    @property
    def ours(self) -> tuple[int, ...]:
        """The shape of our array, or of one layer of it."""
        return self.facts.layer_shape

    @property
    def is_transposed(self) -> bool:
        """Whether our array has its inputs first: all matrices but embeddings do."""
        first = self.facts.axes[self.facts.is_stacked]
        return first in self.facts.summed

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in transformers."""
        if self.is_transposed:
            return self._matrix[::-1]
        return self.ours if self.facts.is_matrix else (math.prod(self.ours),)

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """Returns a whole tensor as a view with our rows; heads remain in a row."""
        return values.T if self.is_transposed else values.reshape(self.ours)

    def to_theirs(self, values: np.ndarray) -> np.ndarray:
        """Returns our whole array as a view with the rows of transformers."""
        if self.is_transposed:
            return values.reshape(self._matrix).T
        return values.reshape(self.shape)

    def as_theirs(self, values: np.ndarray) -> np.ndarray:
        """Returns any values of our array as the values of the tensor."""
        if (self.factor, self.offset) == (1.0, 0.0):
            return values
        return values.astype(np.float32) * np.float32(self.factor) + np.float32(
            self.offset
        )

    @property
    def _matrix(self) -> tuple[int, int]:
        """The size of all inputs and of all outputs of a transposed matrix."""
        num_inputs = len(self.facts.summed)
        return math.prod(self.ours[:num_inputs]), math.prod(self.ours[num_inputs:])


def tensors_of(model: TransformerConfig, architecture: Architecture) -> list[Tensor]:
    """Returns the tensors of `model` as `architecture` names them, in file order."""
    facts = _facts(model)
    offset = float(model.zero_centered_norm) - float(architecture.is_gemma)
    root = model.embed_dim**0.5
    factor = (root if model.scale_embedding else 1.0) / (
        root if architecture.is_gemma else 1.0
    )

    def outside(
        name: str, parameter: str, *, factor: float = 1.0, offset: float = 0.0
    ) -> Tensor:
        parameter = f"params.{parameter}"
        return Tensor(
            name=f"{name}.weight",
            parameter=parameter,
            facts=facts[parameter],
            layer=None,
            factor=factor,
            offset=offset,
        )

    tensors = [outside("model.embed_tokens", "embedding_VD", factor=factor)]
    for layer in range(model.num_layers):
        tensors += _of_layer(model, facts, layer, offset)
    tensors.append(outside("model.norm", "final_norm.scale", offset=offset))
    if not model.tied_embedding:
        tensors.append(outside("lm_head", "unembedding_VD"))
    return tensors


def shapes_of(model: TransformerConfig, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns our arrays as shapes in `dtype`, by name."""
    return {
        name: jax.ShapeDtypeStruct(facts.shape, jnp.dtype(dtype))
        for name, facts in _facts(model).items()
    }


def _facts(model: TransformerConfig) -> dict[str, ParameterFacts]:
    """Returns the facts of each parameter, by its name with dots."""
    one_device = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    facts = parameter_facts(Transformer(model, one_device))
    flat: dict[str, ParameterFacts] = traverse_util.flatten_dict(facts, sep=".")
    return flat


def _of_layer(
    model: TransformerConfig,
    facts: Mapping[str, ParameterFacts],
    layer: int,
    offset: float,
) -> Iterator[Tensor]:
    """Yields the tensors of one layer; `offset` is that of its norms."""
    ours = f"params.{STACK if model.scan_layers else layer_name(layer)}"

    def tensor(name: str, parameter: str, offset: float = 0.0) -> Tensor:
        parameter = f"{ours}.{parameter}"
        return Tensor(
            name=f"model.layers.{layer}.{name}",
            parameter=parameter,
            facts=facts[parameter],
            layer=layer if model.scan_layers else None,
            offset=offset,
        )

    def norm(name: str, parameter: str) -> Tensor:
        return tensor(f"{name}.weight", f"{parameter}.scale", offset)

    yield norm("input_layernorm", "attention_norm")
    for short, parameter in ("q", "query"), ("k", "key"), ("v", "value"):
        theirs, mine = f"self_attn.{short}_proj", f"attention.{parameter}"
        yield tensor(f"{theirs}.weight", mine)
        if model.qkv_bias:
            yield tensor(f"{theirs}.bias", f"{mine}_bias")
        if model.qk_norm and short != "v":
            yield norm(f"self_attn.{short}_norm", f"{mine}_norm")
    yield tensor("self_attn.o_proj.weight", "attention.out")
    if model.post_norms:
        yield norm("post_attention_layernorm", "attention_post_norm")
        yield norm("pre_feedforward_layernorm", "mlp_norm")
        yield norm("post_feedforward_layernorm", "mlp_post_norm")
    else:
        yield norm("post_attention_layernorm", "mlp_norm")
    for name in ("gate", "up", "down"):
        yield tensor(f"mlp.{name}_proj.weight", f"mlp.{name}")

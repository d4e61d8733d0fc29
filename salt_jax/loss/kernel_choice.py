"""The choice of what computes a chunk of the loss.

xla         Plain JAX operations, on any device.
pallas      Kernels for TPUs that make softmax statistics while they multiply.
interpreted The same kernels run by JAX, slowly, on any device: for tests.
auto        pallas on TPUs where it moves fewer bytes and can be used, else xla.

Dimensions: V vocabulary, D embed, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from absl import logging

from salt_jax.loss.kernel_blocks import KernelBlocks
from salt_jax.loss.lane_statistics import LANES
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.model.config import TransformerConfig
from salt_jax.model.unembedding import Unembedding

NAMES = ("auto", "xla", "pallas", "interpreted")
MOST_ON_CHIP = 2**26  # Bytes of logits that XLA keeps in on-chip memory.
_MIB = 2**20
# By `jax.Device.device_kind`, as in `jax.experimental.pallas.tpu.get_tpu_info`.
_BLOCKS = {
    "TPU v4": KernelBlocks(num_cores=2, vmem_bytes=16 * _MIB),
    "TPU v5 lite": KernelBlocks(vmem_bytes=128 * _MIB),
    "TPU v5": KernelBlocks(num_cores=2, vmem_bytes=64 * _MIB),
    "TPU v6 lite": KernelBlocks(vmem_bytes=128 * _MIB),
}


def check(name: str) -> None:
    """Raises ValueError if `name` is not one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"The loss kernel must be one of {NAMES}, got {name!r}.")


@dataclasses.dataclass(frozen=True)
class LossKernel:
    """What computes the chunks of a loss, and what kept "auto" from the kernels."""

    name: str
    blocks: KernelBlocks | None = None
    obstacle: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        chunks: TokenChunks,
        student: Unembedding,
        teacher: Unembedding | None = None,
    ) -> LossKernel:
        """Returns what `name` chooses for models, which may be shapes alone.

        Raises:
          ValueError: the name is unknown, or the named kernel cannot be used.
        """
        check(name)
        chip = chunks.partitioning.mesh.devices.flat[0]
        if name == "xla" or (name == "auto" and chip.platform != "tpu"):
            return cls("xla")
        wanted = "pallas" if name == "auto" else name
        blocks = _BLOCKS.get(chip.device_kind)
        if wanted == "interpreted":
            blocks = KernelBlocks(least_tokens=16, interpret=True)
        obstacle = (
            _platform_obstacle(blocks, chip)
            if blocks is None
            else _obstacle(blocks, chunks, student, teacher)
        )
        if obstacle is None and name == "auto":
            obstacle = _needless(chunks, student, teacher)
        if obstacle is None:
            return cls(wanted, blocks)
        if name != "auto":
            raise ValueError(
                f"loss_kernel={name!r} cannot be used: {obstacle}. Set it to 'auto' or "
                "'xla'."
            )
        return cls("xla", None, obstacle)

    @classmethod
    def of_shapes(
        cls,
        name: str,
        chunks: TokenChunks,
        rows: int,
        length: int,
        student: TransformerConfig,
        teacher: TransformerConfig | None = None,
    ) -> LossKernel:
        """Returns what `name` chooses for models that read `rows` of `length` tokens.

        Raises:
          ValueError: as for `of`.
        """

        def shapes(config: TransformerConfig) -> Unembedding:
            shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.dtype(config.dtype))
            width = config.embed_dim
            hidden, embedding = (rows, length, width), (student.vocab_size, width)
            return Unembedding(shape(*hidden), shape(*embedding))  # type: ignore[arg-type]

        models = [shapes(x) for x in (student, teacher) if x is not None]
        return cls.of(name, chunks, *models)

    def log(self, role: str) -> None:
        """Logs why the loss in `role` is not computed by kernels."""
        if self.obstacle is not None:
            logging.info("Loss of %s: %r; %s.", role, self.name, self.obstacle)


def _platform_obstacle(blocks, chip):
    return f"there are kernels for {', '.join(_BLOCKS)}, not for {chip.device_kind}"


def _obstacle(blocks, chunks, student, teacher):
    """Returns why the kernels cannot be used; None if they can be."""
    size_C, size_V = chunks.sizes(student)
    widths = [m.embedding_VD.shape[1] for m in (student, teacher) if m is not None]
    if not blocks.tokens(size_C):
        return f"a chunk of {size_C} tokens is not a multiple of {blocks.least_tokens}"
    if not blocks.vocab(size_V):
        return (
            f"a device's {size_V} words of the vocabulary are not a multiple of "
            f"{LANES * blocks.num_cores}"
        )
    if blocks.interpret:
        return None
    dtype = student.hidden_BLD.dtype
    if dtype != "bfloat16":
        return f"it needs dtype='bfloat16', got {str(dtype)!r}"
    if any(width % LANES for width in widths):
        return f"the widths {widths} are not multiples of {LANES}"
    needed, available = blocks.needed(size_C, *widths), blocks.available_bytes
    if needed > available:
        return (
            f"a chunk of {size_C} tokens of widths {widths} needs {needed / _MIB:.0f} "
            f"MiB of a core's memory, of {available / _MIB:.0f}"
        )
    return None


def _needless(chunks, student, teacher):
    """Returns why the kernels would not be faster; None if they are expected to be."""
    size_C, size_V = chunks.sizes(student)
    logits = 4 * size_C * size_V * (1 if teacher is None else 2)
    if logits <= MOST_ON_CHIP:
        return f"the {logits / _MIB:.0f} MiB of a chunk's logits stay on the chip"
    return None

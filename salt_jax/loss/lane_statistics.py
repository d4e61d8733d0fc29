"""Softmax statistics that are updated one block of logits after another.

Each lane of a TPU's vector unit keeps its own: the statistics of the logits whose ids
are equal modulo 128. So a block is added without an operation across lanes, and lanes,
cores and devices are merged once, at the end, by the same formula.

Dimensions: C tokens, R some of them, N lanes (of all cores), 1 a broadcast dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from salt_jax.mesh.vocab_shards import VocabShards

LANES = 128  # The lanes of a TPU's vector unit.
LOW = -1e30  # Below every logit, and finite: 0 times it is 0.

Statistics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Block:
    """Logits of some tokens at one id for each lane, and what is known of these ids."""

    student: jax.Array
    teacher: Any  # None: there is none.
    is_target: jax.Array
    is_real: Any  # False for padding; None: there is none.


@dataclasses.dataclass(frozen=True)
class LaneStatistics:
    """The statistics of one model, or of a student and its teacher, by name.

    Sums are of exponentials of logits less the largest so far, "top", as in
    `chunk_values`: "p" of the student, "q" of the teacher, "soft" of the teacher's at
    the temperature. Padding is in none of the teacher's, nor in the student's "kd_p".
    """

    with_teacher: bool = False
    temperature: float = 1.0
    with_padding: bool = False
    with_rank: bool = False  # "above": logits above a given one, the target's.
    with_entropy: bool = False  # "p_dot": exponentials times shifted logits.

    @property
    def is_warm(self) -> bool:
        """Whether "soft" differs from "q"."""
        return self.with_teacher and self.temperature != 1.0

    @property
    def masks_student(self) -> bool:
        """Whether the student has other statistics without padding."""
        return self.with_teacher and self.with_padding

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the statistics, in the order in which a kernel holds them."""
        parts = {
            ("top", "p", "target"): True,
            ("teacher_top", "q", "soft_dot", "q_dot"): self.with_teacher,
            ("both_top", "teacher_target"): self.with_teacher,
            ("soft",): self.is_warm,
            ("kd_top", "kd_p"): self.masks_student,
            ("above",): self.with_rank,
            ("p_dot",): self.with_entropy,
        }
        return tuple(name for names, used in parts.items() if used for name in names)

    def first(self, name: str) -> float:
        """Returns the value of a statistic before the first block."""
        return LOW if name.endswith("top") and name != "both_top" else 0.0

    def updated(
        self, old: Statistics, blocks: Sequence[Block], target_R1: jax.Array | None
    ) -> Statistics:
        """Returns the statistics with some blocks added.

        Args:
          old: The statistics so far.
          blocks: The blocks.
          target_R1: The target's logit, of the teacher if there is one, for "above".
        """
        blocks = [self._masked(block) for block in blocks]
        tops = {"top": _largest(old["top"], [b.student for b in blocks])}
        if self.with_teacher:
            given = [b.teacher for b in blocks]
            tops["teacher_top"] = _largest(old["teacher_top"], given)
        if self.masks_student:
            real = [self._real(b.student, b) for b in blocks]
            tops["kd_top"] = _largest(old["kd_top"], real)
        new = self.rebased(old, tops)
        for block in blocks:
            self._add(new, block, target_R1)
        return new

    def rebased(self, old: Statistics, tops: Statistics) -> Statistics:
        """Returns the statistics relative to other, larger maxima."""
        new = old | tops
        move = old["top"] - new["top"]
        scale = jnp.exp(move)
        new["p"] = scale * old["p"]
        if self.with_entropy:
            new["p_dot"] = scale * (old["p_dot"] + move * old["p"])
        if not self.with_teacher:
            return new
        if self.masks_student:
            move = old["kd_top"] - new["kd_top"]
            new["kd_p"] = jnp.exp(move) * old["kd_p"]
        teacher_move = old["teacher_top"] - new["teacher_top"]
        scale = jnp.exp(teacher_move)
        new["q"] = scale * old["q"]
        new["q_dot"] = scale * (old["q_dot"] + (teacher_move - move) * old["q"])
        soft = old["q"]
        if self.is_warm:
            scale, soft = jnp.exp(teacher_move * (1.0 / self.temperature)), old["soft"]
            new["soft"] = scale * soft
        new["soft_dot"] = scale * (old["soft_dot"] + move * soft)
        is_top = (move == 0.0) & (teacher_move == 0.0)
        new["both_top"] = jnp.where(is_top, old["both_top"], 0.0)
        return new

    def merged(self, lanes: Statistics, shards: VocabShards) -> Statistics:
        """Returns statistics_C1 over all lanes and devices of statistics_CN."""
        tops = {
            name: shards.largest(jnp.max(x_CN, axis=1, keepdims=True))
            for name, x_CN in lanes.items()
            if self.first(name) == LOW
        }
        wide = {name: jnp.broadcast_to(x, lanes["p"].shape) for name, x in tops.items()}
        moved = self.rebased(lanes, wide)
        sums = {
            name: jnp.sum(x_CN, axis=1, keepdims=True)
            for name, x_CN in moved.items()
            if name not in tops
        }
        return shards.sum(sums) | tops

    def _masked(self, block: Block) -> Block:
        """Returns a block in which padding has no probability, save in "p"."""
        if not self.with_padding:
            return block
        if self.with_teacher:
            return dataclasses.replace(block, teacher=self._real(block.teacher, block))
        return dataclasses.replace(block, student=self._real(block.student, block))

    def _real(self, logits: Any, block: Block) -> jax.Array:
        return jnp.where(block.is_real, logits, LOW)

    def _add(self, new: Statistics, block: Block, target_R1: Any) -> None:
        """Adds a block to `new`, whose maxima are not below its logits."""
        shifted = block.student - new["top"]
        p = jnp.exp(shifted)
        new["p"] += p
        new["target"] = jnp.where(block.is_target, block.student, new["target"])
        if self.with_entropy:
            new["p_dot"] += p * shifted
        if self.with_rank:
            ranked = block.teacher if self.with_teacher else block.student
            is_above = (ranked > target_R1) & ~block.is_target
            new["above"] += jnp.where(is_above, 1.0, 0.0)
        if self.with_teacher:
            self._add_teacher(new, block, shifted)

    def _add_teacher(self, new: Statistics, block: Block, shifted: jax.Array) -> None:
        student, top = block.student, new["top"]
        if self.masks_student:
            student, top = self._real(student, block), new["kd_top"]
            shifted = student - top
            new["kd_p"] += jnp.exp(shifted)
        teacher_shifted = block.teacher - new["teacher_top"]
        q = soft = jnp.exp(teacher_shifted)
        new["q"] += q
        new["q_dot"] += q * (teacher_shifted - shifted)
        if self.is_warm:
            soft = jnp.exp(teacher_shifted * (1.0 / self.temperature))
            new["soft"] += soft
        new["soft_dot"] += soft * shifted
        is_top = (student == top) & (block.teacher == new["teacher_top"])
        new["both_top"] = jnp.where(is_top, 1.0, new["both_top"])
        target = new["teacher_target"]
        new["teacher_target"] = jnp.where(block.is_target, block.teacher, target)


def _largest(top: jax.Array, logits: Sequence) -> jax.Array:
    for x in logits:
        top = jnp.maximum(top, x)
    return top

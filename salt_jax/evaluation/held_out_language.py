"""Held-out text of a language whose truth is known: the loss, and the excess risk.

Dimensions: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.languages.markov import MarkovLanguage, MarkovTruth
from salt_jax.evaluation.eval_step import ReadTokens
from salt_jax.evaluation.held_out import TOTAL, Evaluation, HeldOutRows
from salt_jax.evaluation.reader import Reader, reader_of
from salt_jax.loss.token_statistics import TokenStatistics
from salt_jax.model.transformer import Params, Transformer
from salt_jax.training.loop import Measure
from salt_jax.training.program import Program

SPLITS = ("val", "test")
HELD_OUT_SEED = 0  # All experiments are measured on the same rows.


def padded(truth: MarkovTruth, num_predicted: int) -> np.ndarray:
    """Returns the probabilities with zeros for padding tokens, float32 [C, V]."""
    missing = num_predicted - truth.probabilities_CV.shape[1]
    return np.pad(truth.probabilities_CV, ((0, 0), (0, missing))).astype(np.float32)


def truth_of(probabilities_CV: jax.Array, truth: MarkovTruth, batch: Batch) -> Any:
    """Returns the true next-token distributions of a batch [B, L, V], in a program."""

    def follow(contexts_B: jax.Array, tokens_B: jax.Array) -> Any:
        contexts_B = truth.following(contexts_B, tokens_B)
        return contexts_B, contexts_B

    first_B = jnp.full(len(batch.tokens_BL), truth.first_context, jnp.int32)
    _, contexts_LB = jax.lax.scan(follow, first_B, batch.tokens_BL.T)
    return probabilities_CV[contexts_LB.T]


def excess_reader(model: Transformer, truth: MarkovTruth) -> ReadTokens:
    """Returns a jitted function like `token_reader`'s, with the excess loss as "ce".

    The excess loss of a model q at a context is KL(truth, q) = sum_v truth(v)
    log(truth(v) / q(v)) in nats: its expected cross-entropy minus that of the truth. It
    needs no draw of the target, and its mean is the excess risk of q. Logits are whole,
    so the vocabulary should be small.
    """
    everywhere = model.partitioning.sharding()

    @functools.partial(jax.jit, out_shardings=everywhere)
    def read(params: Params, table_CV: Any, batch: Batch) -> TokenStatistics:
        unembedding: Any = model.apply(params, batch)
        log_q_BLV = jax.nn.log_softmax(unembedding.logits())
        truth_BLV = truth_of(table_CV, truth, batch)
        excess_BL = kl_divergence(truth_BLV, log_q_BLV)
        return TokenStatistics(excess_BL, jnp.zeros_like(batch.targets_BL), None)

    table_CV = padded(truth, model.config.vocab_size)
    return lambda params, batch: read(params, table_CV, batch)


def kl_divergence(p_BLV: jax.Array, log_q_BLV: jax.Array) -> jax.Array:
    """Returns KL(p, q) over the last axis [nats]; tokens with p = 0 add nothing."""
    log_p_BLV = jnp.log(jnp.where(p_BLV > 0, p_BLV, 1.0))
    return jnp.sum(p_BLV * (log_p_BLV - log_q_BLV), axis=-1, where=p_BLV > 0)


@dataclasses.dataclass(frozen=True)
class HeldOutLanguage:
    """Text of a known language, measured by its loss and by the exact excess risk."""

    program: Program
    data: MarkovLanguage

    def open(self) -> Measure:
        """Opens the validation rows; see `HeldOut.open`."""
        validation = self.program.experiment.validation
        assert validation is not None
        losses = self._readers()
        count = validation.num_sequences
        return lambda params: self._means(params, self.data, losses, count, "val_")

    def rows(self) -> HeldOutRows:
        """Returns the validation rows; see `HeldOut.rows`."""
        experiment = self.program.experiment
        assert experiment.validation is not None
        seq_len = experiment.seq_len
        rows = self.data.open_rows(seq_len=seq_len, seed=HELD_OUT_SEED)
        return HeldOutRows(
            read=rows.read,
            count=experiment.validation.num_sequences,
            fingerprint=rows.fingerprint(),
        )

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluates as many rows of each split as a validation reads."""
        validation = self.program.experiment.validation
        count = validation.num_sequences if validation else 1024
        readers = self._readers()
        splits = {}
        for split in SPLITS:
            data = dataclasses.replace(self.data, split=split)
            means = self._means(params, data, readers, count)
            perplexity = math.exp(means["loss"])
            tokens = count * self.program.experiment.seq_len
            total = means | {"perplexity": perplexity, "tokens": tokens}
            splits[split] = {"domains": {}, TOTAL: total}
        return Evaluation(splits=splits, samples=[], table=_table(splits))

    def _readers(self) -> dict[str, Reader]:
        reader = reader_of(self.program)
        excess = excess_reader(self.program.student, self.data.truth())
        return {
            "loss": reader,
            "excess_risk": dataclasses.replace(reader, read=excess),
        }

    def _means(
        self,
        params: Params,
        data: MarkovLanguage,
        readers: dict[str, Reader],
        count: int,
        prefix: str = "",
    ) -> dict[str, float]:
        seq_len = self.program.experiment.seq_len
        rows = data.open_rows(seq_len=seq_len, seed=HELD_OUT_SEED)
        return {
            prefix + name: reader.mean_loss(params, rows.read, count)
            for name, reader in readers.items()
        }


def _table(splits: dict[str, Any]) -> str:
    lines = [f"{'split':6} {'tokens':>9} {'loss':>8} {'excess risk':>11}"]
    for split, result in splits.items():
        row = result[TOTAL]
        lines.append(
            f"{split:6} {row['tokens']:9,} {row['loss']:8.4f} "
            f"{row['excess_risk']:11.5f}"
        )
    return "\n".join(lines)

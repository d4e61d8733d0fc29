"""Held-out text: loss, perplexity, bits per byte and accuracy, by domain.

Dimensions: N sequences, L length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.held_out import TOTAL, Evaluation, HeldOutRows
from salt_jax.evaluation.reader import TokensRead, reader_of
from salt_jax.evaluation.samples import samples
from salt_jax.model.transformer import Params
from salt_jax.telemetry.progress import Progress
from salt_jax.training.loop import Measure
from salt_jax.training.program import Program

SPLITS = ("val", "test")
# Sequences of each split whose losses are kept one by one. Preparation shuffles them,
# so the first ones are a sample.
KEPT_SEQUENCES = 4096


@dataclasses.dataclass
class DomainSums:
    """Sums over the targets of one domain."""

    nats: float = 0.0  # Cross-entropy.
    tokens: int = 0
    correct: int = 0  # Targets that were the likeliest token.
    text_bytes: int = 0  # UTF-8 bytes of the targets.

    def means(self) -> dict[str, float]:
        """Returns loss [nats per token], perplexity, bits per byte and accuracy.

        Perplexity is exp(loss). Bits per byte divides by the bytes of the text, not by
        tokens, so it compares models with different vocabularies.
        """
        loss = self.nats / max(self.tokens, 1)
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": self.nats / math.log(2) / max(self.text_bytes, 1),
            "accuracy": self.correct / max(self.tokens, 1),
            "tokens": self.tokens,
            "bytes": self.text_bytes,
        }


@dataclasses.dataclass(frozen=True)
class HeldOutText:
    """Prepared text, measured by its loss and evaluated domain by domain."""

    program: Program
    data: PreparedText

    def open(self) -> Measure:
        """Opens the validation rows; see `HeldOut.open`."""
        rows, reader = self.rows(), reader_of(self.program)
        return lambda params: {
            "val_loss": reader.mean_loss(params, rows.read, rows.count)
        }

    def rows(self) -> HeldOutRows:
        """Returns the validation rows; see `HeldOut.rows`."""
        experiment = self.program.experiment
        assert experiment.validation is not None
        dataset = self.data.open(seq_len=experiment.seq_len)
        return HeldOutRows(
            read=lambda numbers: causal_batch(dataset.read(numbers)),
            count=min(experiment.validation.num_sequences, len(dataset)),
            fingerprint=dataset.fingerprint,
        )

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluates whole splits, and continues some of their documents."""
        splits, losses = evaluate_splits(self.program, params, self.data)
        validates = self.program.experiment.validation is not None
        written = samples(self.program, params, self.data) if validates else []
        return Evaluation(
            splits=splits,
            samples=written,
            table=table(splits),
            sequence_losses=losses,
        )


def evaluate_splits(
    program: Program,
    params: Params,
    data: PreparedText,
    splits: Sequence[str] = SPLITS,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Returns the metrics of `params` on whole splits of `data`, unselected.

    Returns:
      By split: "domains", the metrics of each domain, and "total", of all tokens; and
      the mean loss of each of its first `KEPT_SEQUENCES` sequences.

    Raises:
      FileNotFoundError: a split is not prepared.
    """
    reader, seq_len = reader_of(program), program.experiment.seq_len
    byte_lengths = Vocabulary.open(data.vocabulary).byte_lengths()
    results: dict[str, Any] = {}
    losses: dict[str, list[float]] = {}
    for split in splits:
        whole = dataclasses.replace(data, split=split, selection=None)
        dataset = whole.open(seq_len=seq_len)
        sums = [DomainSums() for _ in dataset.manifest.domains]
        kept = losses[split] = []
        with Progress(f"evaluate {split}", len(dataset)) as progress:
            done = 0
            for tokens in reader(params, dataset, np.arange(len(dataset))):
                _add(sums, tokens, byte_lengths)
                kept += sequence_losses(tokens)[: KEPT_SEQUENCES - len(kept)]
                done += len(tokens.ce_NL)
                progress.update(done)
        results[split] = _means(sums, dataset)
    return results, losses


def sequence_losses(tokens: TokensRead) -> list[float]:
    """Returns the mean loss of each sequence [nats per token], to six digits."""
    counts_N = np.maximum(np.sum(tokens.is_target, axis=1), 1)
    nats_N = np.sum(tokens.ce_NL * tokens.is_target, axis=1, dtype=np.float64)
    return [float(f"{loss:.6g}") for loss in nats_N / counts_N]


def table(results: Mapping[str, Any]) -> str:
    """Returns the metrics as text: one row per split and domain."""
    lines = [
        f"{'split':6} {'domain':28} {'tokens':>9} {'loss':>8} {'ppl':>9} "
        f"{'bits/byte':>9} {'accuracy':>8}"
    ]
    for split, result in results.items():
        rows = {**result["domains"], TOTAL: result["total"]}
        for name, row in rows.items():
            lines.append(
                f"{split:6} {name:28} {row['tokens']:9,} {row['loss']:8.4f} "
                f"{row['perplexity']:9.2f} {row['bits_per_byte']:9.4f} "
                f"{row['accuracy']:8.2%}"
            )
    return "\n".join(lines)


def _add(sums: list[DomainSums], tokens: TokensRead, byte_lengths: np.ndarray) -> None:
    is_target_NL = tokens.is_target
    domains = tokens.sequences.domains[is_target_NL]
    columns = (
        tokens.ce_NL[is_target_NL].astype(np.float64),
        np.ones(len(domains)),
        tokens.rank_NL[is_target_NL] == 0,
        byte_lengths[tokens.sequences.tokens[is_target_NL]],
    )
    nats, counts, correct, text_bytes = (
        np.bincount(domains, weights=column, minlength=len(sums)) for column in columns
    )
    for i, domain in enumerate(sums):
        domain.nats += float(nats[i])
        domain.tokens += round(counts[i])
        domain.correct += round(correct[i])
        domain.text_bytes += round(text_bytes[i])


def _means(sums: list[DomainSums], dataset: PreparedDataset) -> dict[str, Any]:
    total = DomainSums()
    for domain in sums:
        for field in dataclasses.fields(DomainSums):
            value = getattr(total, field.name) + getattr(domain, field.name)
            setattr(total, field.name, value)
    domains = {
        name: domain.means()
        for name, domain in zip(dataset.manifest.domains, sums, strict=True)
        if domain.tokens
    }
    return {"domains": domains, TOTAL: total.means()}

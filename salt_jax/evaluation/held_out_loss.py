"""How well a model predicts held-out text, domain by domain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from salt_jax.config import Experiment
from salt_jax.data.json_files import write_json
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.held_out import TokensRead, reading_of
from salt_jax.model.transformer import Params
from salt_jax.telemetry.progress import Progress
from salt_jax.training.program import Program

SPLITS = ("val", "test")
TOTAL = "total"


@dataclasses.dataclass
class DomainSums:
    """Sums over the tokens of one domain; means are taken when they are read."""

    nats: float = 0.0
    tokens: int = 0
    correct: int = 0
    text_bytes: int = 0

    def means(self) -> dict[str, float]:
        """Returns loss (nats a token), perplexity, bits per byte and accuracy.

        Perplexity is exp of the cross-entropy. Bits per byte counts the bytes of the
        text, so that it compares models of different vocabularies.
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


def evaluate(
    program: Program, params: Params, splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """Returns the evaluation of `params` on whole splits of the experiment's data.

    Returns:
      By split: "domains", the means of each domain, and "total", those of all tokens.

    Raises:
      FileNotFoundError: a split is not prepared.
    """
    experiment = program.experiment
    reading = reading_of(program)
    results = {}
    for split in splits:
        data = dataclasses.replace(_prepared(experiment), split=split, selection=None)
        dataset = data.open(seq_len=experiment.seq_len)
        byte_lengths = Vocabulary.open(data.vocabulary).byte_lengths()
        sums = [DomainSums() for _ in dataset.manifest.domains]
        with Progress(f"evaluate {split}", len(dataset)) as progress:
            done = 0
            for tokens in reading(params, dataset, np.arange(len(dataset))):
                _add(sums, tokens, byte_lengths)
                done += len(tokens.ce_NL)
                progress.update(done)
        results[split] = _means(sums, dataset)
    return results


def write_evaluation(
    path: epath.PathLike, results: Mapping[str, Any], *, step: int, params: int
) -> None:
    """Writes an evaluation as JSON, with the step and the number of parameters."""
    record = {"step": step, "params": params, "splits": results}
    write_json(epath.Path(path), record)


def table(results: Mapping[str, Any]) -> str:
    """Returns an evaluation as text: a row for each split and domain."""
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


def _prepared(experiment: Experiment) -> PreparedText:
    """Returns the data whose splits are evaluated: that of the validation, if any."""
    validation = experiment.validation
    data = validation.data if validation else experiment.stages[-1].data
    if not isinstance(data, PreparedText):
        raise ValueError(
            f"Only prepared text can be evaluated, and the last stage reads "
            f"{type(data).__name__}: give the experiment a validation."
        )
    return data


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

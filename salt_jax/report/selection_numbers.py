"""The numbers and sample texts of a selection, as JSON.

Dimensions: N scored sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from salt_jax import config
from salt_jax.config import Experiment, Stage
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.data.scoring.score_columns import QUANTILES
from salt_jax.data.scoring.scores import Scores
from salt_jax.data.selecting.selection import Selection, SelectionResult, stage_warnings
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.model.flops import step_flops

NUM_TEXTS = 5  # Sample texts at the top, the middle and the bottom of the ranking.
NUM_PAIRS = 3  # Sample pairs of near-duplicates.
TEXT_LENGTH = 600  # Characters.
NUM_BINS = 48


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selected:
    """A stage with its data and the result of its selection."""

    experiment: Experiment
    stage: Stage
    data: PreparedText
    selection: Selection
    choice: SelectionResult

    def describe(self) -> dict[str, Any]:
        """Returns the report of the selection as JSON types."""
        choice, dataset = self.choice, self.choice.dataset
        num_kept, num_read = int(choice.is_kept.sum()), self._num_read()
        scores = Scores.open(self.selection.scores, dataset)
        return {
            "stage": self.stage.name,
            "dataset": str(dataset.path),
            "selection": config.as_json(self.selection),
            "ranking": repr(self.selection.ranking),
            "warnings": self.warnings(),
            "sequences": len(dataset),
            "scored": len(choice.worth),
            "kept": num_kept,
            "kept_tokens": _num_tokens(choice),
            "read": num_read,
            "epochs": num_read / num_kept,
            "domains": _domains(choice),
            "histograms": {
                "worth": histogram(choice.worth, choice.is_kept),
                "mean_loss": histogram(
                    scores.column("mean_loss")[: len(choice.worth)], choice.is_kept
                ),
            },
            "zero_shares": scores.manifest.zero_shares,
            "loss_quantiles": _loss_quantiles(scores, choice.is_kept),
            "near_duplicates": self._near_duplicates(),
            "texts": self._texts(),
            "bill": self._bill(),
        }

    def warnings(self) -> list[str]:
        """Returns warnings, one line each."""
        lines = stage_warnings(
            int(self.choice.is_kept.sum()),
            num_read=self._num_read(),
            batch_size=self.experiment.sizes_of(self.stage.name)[-1],
        )
        return [*self.choice.warnings(), *lines]

    def _num_read(self) -> int:
        """Returns the number of sequences the stage reads, repetitions included."""
        timeline = self.experiment.timeline()
        (begin,) = [begin for begin, stage in timeline if stage is self.stage]
        return self.experiment.batches.rows(begin, self.stage.end_step)

    def _texts(self) -> dict[str, list[dict[str, Any]]]:
        size = len(self.choice.worth)
        count = min(NUM_TEXTS, size)
        middle = (size - count) // 2
        places = {
            "highest": range(count),
            "median": range(middle, middle + count),
            "lowest": range(size - 1, size - 1 - count, -1),
        }
        return {
            name: self._examples(ids_at(self.choice.worth, ranks))
            for name, ranks in places.items()
        }

    def _examples(self, ids: np.ndarray) -> list[dict[str, Any]]:
        """Returns domain, worth and text of the sequences with `ids` [N]."""
        choice, names = self.choice, self.choice.dataset.manifest.domains
        vocabulary = Vocabulary.open(self.data.vocabulary)
        sequences = choice.dataset.read(ids)
        return [
            {
                "id": int(i),
                "domain": names[choice.domains[i]],
                "worth": choice.worth[i].item(),
                "kept": bool(choice.is_kept[i]),
                "text": _text(tokens, segments, vocabulary),
            }
            for i, tokens, segments in zip(
                ids, sequences.tokens, sequences.segments, strict=True
            )
        ]

    def _near_duplicates(self) -> dict[str, Any] | None:
        """Returns their number, and the pairs with the lowest similarity."""
        found = self.choice.duplicates
        if found is None:
            return None
        least = np.argsort(found.similarity, kind="stable")[:NUM_PAIRS]
        pairs = zip(
            self._examples(found.kept[least]),
            self._examples(found.dropped[least]),
            found.similarity[least].tolist(),
            strict=True,
        )
        return {
            "dropped": len(found.dropped),
            "pairs": [
                {"similarity": similarity, "stays": stays, "dropped": dropped}
                for stays, dropped, similarity in pairs
            ],
        }

    def _bill(self) -> dict[str, float | None]:
        """Returns the FLOPs of scoring, None if unknown, and of BASELINE.

        BASELINE is this experiment's student, trained for all steps without a teacher.
        """
        run = self.experiment
        tokens = run.batches.rows(0, run.total_steps) * run.seq_len
        baseline = float(tokens * step_flops(run.model, None, run.seq_len))
        try:
            folders = self.selection.score_folders
            scoring = sum(read_bill(folder).flops for folder in folders)
        except FileNotFoundError:
            return {"scoring_flops": None, "baseline_flops": baseline, "share": None}
        return {
            "scoring_flops": scoring,
            "baseline_flops": baseline,
            "share": scoring / baseline,
        }


def ids_at(worth: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """Returns the ids at some ranks of the order by worth, int64.

    Args:
      worth: Real numbers, [N].
      ranks: Ranks from 0, the highest worth; ties are ordered by id.
    """
    places = len(worth) - 1 - np.array(ranks, np.int64)
    values = np.partition(worth, places)[places]
    ids = []
    for rank, value in zip(ranks, values, strict=True):
        equal = np.flatnonzero(worth == value)
        ids.append(equal[rank - np.count_nonzero(worth > value)])
    return np.array(ids, np.int64)


def histogram(values: np.ndarray, is_kept: np.ndarray) -> dict[str, list[float]]:
    """Returns histograms of `values` [N], kept and left out, with their bin edges."""
    counts, edges = np.histogram(values, NUM_BINS)
    kept, _ = np.histogram(values[is_kept], edges)
    return {
        "edges": edges.tolist(),
        "kept": kept.tolist(),
        "left_out": (counts - kept).tolist(),
    }


def _num_tokens(choice: SelectionResult) -> int:
    """Returns the number of tokens kept; only the last sequence has padding."""
    manifest = choice.dataset.manifest
    total = int(choice.is_kept.sum()) * manifest.seq_len
    has_last = len(choice.worth) == manifest.count and choice.is_kept[-1]
    padding = manifest.count * manifest.seq_len - manifest.num_tokens
    return total - (padding if has_last else 0)


def _domains(choice: SelectionResult) -> list[dict[str, Any]]:
    """Returns counts and mean worth by domain, the largest domain first."""
    scored = choice.sum_by_domain(np.ones_like(choice.is_kept))
    kept = choice.sum_by_domain(choice.is_kept)
    worth = choice.sum_by_domain(choice.worth)
    worth_kept = choice.sum_by_domain(np.where(choice.is_kept, choice.worth, 0))
    names = choice.dataset.manifest.domains
    return [
        {
            "domain": names[i],
            "scored": int(scored[i]),
            "kept": int(kept[i]),
            "kept_share": kept[i] / scored[i],
            "mean_worth": worth[i] / scored[i],
            "mean_worth_kept": worth_kept[i] / kept[i] if kept[i] else None,
        }
        for i in np.argsort(-scored, kind="stable")
        if scored[i]
    ]


def _loss_quantiles(scores: Scores, is_kept: np.ndarray) -> list[dict[str, float]]:
    """Returns each quantile of the token losses, averaged over sequences."""
    quantiles = scores.column("loss_quantiles")[: len(is_kept)]
    return [
        {
            "percent": 100 * share,
            "scored": float(values.mean(dtype=np.float64)),
            "kept": float(values.mean(dtype=np.float64, where=is_kept)),
        }
        for share, values in zip(QUANTILES, quantiles.T, strict=True)
    ]


def _text(tokens: np.ndarray, segments: np.ndarray, vocabulary: Vocabulary) -> str:
    """Returns the documents of a sequence as text, truncated to `TEXT_LENGTH`."""
    documents = [
        vocabulary.decode(tokens[segments == number])
        for number in range(1, int(segments.max(initial=0)) + 1)
    ]
    text = "\n-----\n".join(documents)
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]} ..."

"""Prepared text as what a stage reads."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from etils import epath

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.denoising import DenoisedRows
from salt_jax.data.reading.objectives import CausalLM, Objective, mixture_of
from salt_jax.data.reading.rows import Rows, SequenceRows
from salt_jax.data.vocabulary import Vocabulary


class StageData(Protocol):
    """The data of a stage, as a frozen value."""

    @property
    def vocabulary(self) -> str:
        """The path of the vocabulary."""

    @property
    def has_prefix(self) -> bool:
        """Whether rows have a prefix with bidirectional attention."""

    def open_rows(self, *, seq_len: int, seed: int) -> Rows:
        """Opens the data as rows of `seq_len` tokens, shuffled by `seed`."""


class SequenceSelector(Protocol):
    """Decides which sequences a stage reads."""

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the ids to keep, int64, increasing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedText:
    """A prepared split that a stage reads, whole or selected."""

    path: str  # Where `prepare` put its splits.
    vocabulary: str
    split: str = "train"
    selection: SequenceSelector | None = None
    objective: Objective = CausalLM()

    @property
    def has_prefix(self) -> bool:
        """Whether rows have a prefix with bidirectional attention."""
        return self.objective.has_prefix

    def open_rows(self, *, seq_len: int, seed: int) -> Rows:
        """Opens the split and applies the selection, if there is one.

        Raises:
          FileNotFoundError: the data, the vocabulary or the scores are missing.
          ValueError: the data was prepared with other settings; the scores belong to
            other data; the vocabulary lacks a piece that the objective needs.
        """
        dataset = self.open(seq_len=seq_len)
        selection = self.selection
        ids = None if selection is None else selected_ids(selection, dataset)
        if self.objective == CausalLM():
            return SequenceRows(dataset, ids, seed)
        return DenoisedRows(
            dataset,
            ids,
            seed=seed,
            mixture=mixture_of(self.objective),
            vocabulary=Vocabulary.open(self.vocabulary),
        )

    def open(self, *, seq_len: int) -> PreparedDataset:
        """Opens the split.

        Raises:
          FileNotFoundError: the split is not prepared, or the vocabulary is missing.
          ValueError: it was prepared with another vocabulary or sequence length.
        """
        vocabulary = Vocabulary.open(self.vocabulary)
        dataset = PreparedDataset.open(epath.Path(self.path) / self.split)
        settings = dataset.manifest.settings
        if settings.vocabulary_fingerprint != vocabulary.fingerprint:
            raise ValueError(
                f"{dataset.path} was prepared with the vocabulary "
                f"{settings.vocabulary_fingerprint[:12]}, and {vocabulary.path} is "
                f"{vocabulary.fingerprint[:12]}: give the same one, or prepare again."
            )
        if dataset.manifest.begin_id != vocabulary.begin_id:
            raise ValueError(
                f"{dataset.path} was prepared when documents began with the token "
                f"{dataset.manifest.begin_id}, and with {vocabulary.path} they begin "
                f"with {vocabulary.begin_id}: prepare it again."
            )
        if seq_len != settings.seq_len:
            loss = (
                "a longer one cannot be read"
                if seq_len > settings.seq_len
                else "a shorter one would drop tokens"
            )
            raise ValueError(
                f"{dataset.path} was prepared with seq_len={settings.seq_len}, not "
                f"{seq_len}; {loss}. Prepare it again with seq_len={seq_len}."
            )
        return dataset


def selected_ids(selection: SequenceSelector, dataset: PreparedDataset) -> np.ndarray:
    """Returns the ids that `selection` keeps of `dataset`, int64, increasing.

    Raises:
      ValueError: the selection is empty, or gives something other than increasing ids
        of the dataset.
    """
    ids = np.asarray(selection.select(dataset))
    name = f"The selection {type(selection).__name__}"
    if not ids.size:
        raise ValueError(
            f"{name} keeps no sequence of {dataset.path}: there is no data."
        )
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{name} gives {ids.dtype}{list(ids.shape)}, not a list of ids."
        )
    (wrong,) = np.nonzero(ids[1:] <= ids[:-1])
    if len(wrong):
        before, after = ids[wrong[0] : wrong[0] + 2].tolist()
        what = "duplicated ids" if before == after else "ids out of order"
        raise ValueError(
            f"{name} gives {what}: {after} after {before}. A selection is of "
            "increasing ids, each of them once."
        )
    if ids[0] < 0 or ids[-1] >= len(dataset):
        unknown = ids[0] if ids[0] < 0 else ids[-1]
        raise ValueError(
            f"{name} gives the id {unknown}, which {dataset.path} does not have: ids "
            f"are 0 to {len(dataset) - 1}."
        )
    return ids.astype(np.int64, copy=False)

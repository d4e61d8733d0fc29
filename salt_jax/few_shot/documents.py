"""Functions that the YAML files of the embedded tasks name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.data.corpora.jsonl import read_lines
from salt_jax.files.records import decode_object


def open_documents(config_source: str, **metadata: Any) -> Mapping[str, Any]:
    """Returns the splits "train" and "test" from the folder of a task's file.

    They are held in memory; nothing is downloaded or cached.

    Args:
      config_source: The path of the task's file.
      metadata: The metadata in the task's file; ignored.

    Raises:
      FileNotFoundError: a split is missing.
      ValueError: a line is no JSON object.
    """
    import datasets

    folder = epath.Path(config_source).parent
    splits = {}
    for name in ("train", "test"):
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"The task of {config_source} has no {path.name}.")
        records = [*_records(path)]
        try:
            splits[name] = datasets.Dataset.from_list(records)
        except (TypeError, ValueError) as error:  # A field of several types.
            raise ValueError(f"{path} cannot be read ({error}): mend it.") from error
    return splits


def _records(path: epath.Path) -> Iterator[Mapping[str, Any]]:
    for number, lines in read_lines(path, block_bytes=1 << 20):
        for line_number, line in enumerate(lines, number):
            if line.strip():
                where = f"{path}:{line_number}"
                yield decode_object(line, where=where, remedy="mend or remove it")


def cloze_results(
    document: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Returns the metrics of a cloze task for one document.

    Returns:
      "exact_match": 1 if greedy decoding gives the answer; "target_bits": the negative
      log-likelihood of the answer, in bits.
    """
    ((log_likelihood, is_greedy),) = results
    return {
        "exact_match": float(is_greedy),
        "target_bits": -log_likelihood / math.log(2),
    }

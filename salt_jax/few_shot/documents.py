"""What the embedded tasks read, and how a cloze is scored; named in their files."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def open_documents(config_source: str, **metadata: Any) -> Mapping[str, Any]:
    """Returns the splits "train" and "test" that lie beside a task's file.

    They are held in memory: nothing is fetched, and nothing is kept.

    Args:
      config_source: The task's file, as lm-eval tells it.
      metadata: What else the task's file says of it.

    Raises:
      FileNotFoundError: they do not.
    """
    import datasets

    folder = pathlib.Path(config_source).parent
    splits = {}
    for name in ("train", "test"):
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"The task of {config_source} has no {path.name}.")
        lines = path.read_text(encoding="utf-8").splitlines()
        splits[name] = datasets.Dataset.from_list([json.loads(line) for line in lines])
    return splits


def cloze_results(
    document: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Returns how a model met the answer of a document.

    Returns:
      "exact_match": 1 if every token of it was the likeliest; "target_bits": what it
      takes to name it, given the model.
    """
    ((log_likelihood, is_greedy),) = results
    return {
        "exact_match": float(is_greedy),
        "target_bits": -log_likelihood / math.log(2),
    }

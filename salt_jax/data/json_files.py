"""JSON objects in files: read with a refusal that names the file, written whole."""

from __future__ import annotations

import json
import uuid
from typing import Any

from etils import epath


def parse_object(text: str | bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in `text`.

    Args:
      text: JSON.
      where: The file, or the line of a file, for messages.
      remedy: What a person can do about a damaged one, such as "export again".

    Raises:
      ValueError: `text` is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}): {remedy}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object: {remedy}.")
    return value


def read_object(path: epath.Path, *, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in a file; arguments and errors as in `parse_object`."""
    return parse_object(path.read_bytes(), where=str(path), remedy=remedy)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes indented JSON to `path`, replacing what is there."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: epath.Path, text: str) -> None:
    """Writes `text` to `path` atomically: readers see all of it or what was before.

    The partial file has a unique name, so several processes may write at once.
    """
    partial = path.parent / f"{path.name}.{uuid.uuid4().hex}.partial"
    partial.write_text(text)
    partial.replace(path)

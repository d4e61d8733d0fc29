"""Reads prompts from lines of text, or from JSON lines."""

from __future__ import annotations

import json


def prompts_of(text: str) -> list[str]:
    """Returns the prompts in `text`: its lines, or the "prompt" of JSON lines.

    The lines are JSON if the first one is an object with a "prompt".

    Raises:
      ValueError: there is no prompt, or only some lines are JSON objects with one.
    """
    # Not `splitlines`: it also splits at characters that JSON strings may contain.
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise ValueError("There is no prompt: give --prompt=TEXT, or lines of text.")
    if _prompt_in(lines[0]) is None:
        return lines
    prompts = []
    for number, line in enumerate(lines, start=1):
        prompt = _prompt_in(line)
        if prompt is None:
            raise ValueError(
                'The first prompt is a JSON object with a "prompt", and '
                f"number {number} is not: {line[:60]!r}. Use one format for all lines."
            )
        prompts.append(prompt)
    return prompts


def _prompt_in(line: str) -> str | None:
    try:
        read = json.loads(line)
    except json.JSONDecodeError:
        return None
    prompt = read.get("prompt") if isinstance(read, dict) else None
    return prompt if isinstance(prompt, str) else None

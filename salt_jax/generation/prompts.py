"""Prompts in a file or on standard input: lines of text, or JSON lines."""

from __future__ import annotations

import json


def prompts_of(text: str) -> list[str]:
    """Returns the prompts in `text`: its lines, or the "prompt" of JSON lines.

    They are JSON if the first is an object with a "prompt".

    Raises:
      ValueError: the first is, and another is not; or there are none.
    """
    # JSON may have what else `splitlines` takes for the end of a line.
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
                'Of the prompts, the first is a JSON object with a "prompt", and '
                f"number {number} is not: {line[:60]!r}. Make all of them so, or none."
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

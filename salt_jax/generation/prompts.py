"""Reads prompts from lines of text, or from JSON lines."""

from __future__ import annotations

import json


def prompts_of(text: str | bytes, *, where: str = "standard input") -> list[str]:
    """Returns the prompts in `text`: its lines, or the "prompt" of JSON lines.

    The lines are JSON if the first one is an object with a "prompt". A byte order mark
    at the beginning is dropped.

    Args:
      text: The text, as read from a file if it is bytes.
      where: The file, for messages.

    Raises:
      ValueError: there is no prompt, or only some lines are JSON objects with one, or
        a prompt has half of a surrogate pair.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: {error}.") from error
    # Not `splitlines`: it also splits at characters that JSON strings may contain.
    numbered = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    lines = [(n, line.removesuffix("\r")) for n, line in numbered if line.strip()]
    if not lines:
        raise ValueError(
            f"There is no prompt in {where}: give --prompt=TEXT, or lines of text."
        )
    are_json = _prompt_in(lines[0][1]) is not None
    prompts = []
    for number, line in lines:
        prompt = _prompt_in(line) if are_json else line
        if prompt is None:
            raise ValueError(
                f'The first line of {where} is a JSON object with a "prompt", and line '
                f"{number} is not: {line[:60]!r}. Use one format for all lines."
            )
        check_whole(prompt, f"Line {number} of {where}")
        prompts.append(prompt)
    return prompts


def check_whole(prompt: str, which: str) -> None:
    """Refuses a prompt that is not Unicode: no vocabulary has tokens for it.

    Raises:
      ValueError: it has half of a surrogate pair.
    """
    # NumPy comes with it, which help does without.
    from salt_jax.data.corpora.document import is_whole

    if not is_whole(prompt):
        raise ValueError(
            f"{which} has half of a surrogate pair, which is no text: {prompt[:60]!r}."
        )


def _prompt_in(line: str) -> str | None:
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return None
    prompt = read.get("prompt") if isinstance(read, dict) else None
    return prompt if isinstance(prompt, str) else None

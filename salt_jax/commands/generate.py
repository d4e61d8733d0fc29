"""The command generate: which prompts are gone on with, and what is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import gin_config
from salt_jax.config import Experiment
from salt_jax.generation.detokenization import check_stop
from salt_jax.generation.generate import generate, stream
from salt_jax.generation.sampling import Sampling
from salt_jax.storage.loaded import LoadedModel


def run(options: argparse.Namespace) -> None:
    """Prints what an export writes after the prompts that `options` give.

    On a terminal a prompt is gone on with as one watches, and one line after another
    that is typed there; otherwise there is a JSON object a line, of "prompt" and
    "continuation".

    Raises:
      FileNotFoundError: there is no such export, or file of prompts.
      ValueError: options do not go together, or are out of range; there is no prompt,
        or one that is too long.
    """
    if len(options.export) != 1:
        raise ValueError(
            f"generate needs one --export=DIR and got {len(options.export)}; make one "
            "with export."
        )
    if options.prompt is not None and options.prompt_file:
        raise ValueError("Give --prompt or --prompt_file, not both.")
    check_stop(options.stop)
    writing = {
        "sampling": Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
        ),
        "max_new_tokens": options.max_new_tokens,
        "stop": options.stop,
    }
    # Of several processes each would read, and show, a terminal of its own.
    is_watched = sys.stdout.isatty() and jax.process_count() == 1
    is_typed = options.prompt is None and not options.prompt_file
    if is_watched and is_typed and sys.stdin.isatty():
        _show(_load(options), _typed(), writing)
        return
    prompts = _prompts(options)
    loaded = _load(options)
    if is_watched and len(prompts) == 1:
        _show(loaded, iter(prompts), writing)
        return
    texts = generate(loaded, prompts, batch_size=options.batch_size, **writing)
    if jax.process_index() == 0:
        for prompt, text in zip(prompts, texts, strict=True):
            line = {"prompt": prompt, "continuation": text}
            print(json.dumps(line, ensure_ascii=False))


def prompts_of(text: str) -> list[str]:
    """Returns the prompts in `text`: its lines, or the "prompt" of those of JSON.

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


def _prompts(options: argparse.Namespace) -> list[str]:
    if options.prompt is not None:
        return [options.prompt]
    if not options.prompt_file:
        if jax.process_count() > 1:
            raise ValueError(
                "Each of several processes has a standard input of its own: give "
                "--prompt or --prompt_file."
            )
        return prompts_of(sys.stdin.read())
    path = epath.Path(options.prompt_file)
    if not path.is_file():
        raise FileNotFoundError(f"No file of prompts at {path}.")
    try:
        return prompts_of(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}.") from error


def _load(options: argparse.Namespace) -> LoadedModel:
    """Opens the export, on the mesh of the experiment if there is one."""
    where: dict[str, Any] = {}
    if options.gin_file:
        job = gin_config.load(options.gin_file, options.gin_bindings)
        if not isinstance(job, Experiment):
            raise ValueError(
                f"{options.gin_file[-1]} binds {type(job).__name__}; generate takes "
                "the mesh of an Experiment."
            )
        where = {"mesh": job.mesh, "rules": job.rules}
    return LoadedModel.open(
        options.export[0],
        max_length=options.max_length,
        writes=True,
        dtype=options.dtype,
        **where,
    )


def _typed() -> Iterator[str]:
    logging.info("Type the beginning of a text; end with Control-D.")
    for line in sys.stdin:
        yield line.rstrip("\n")


def _show(loaded: LoadedModel, prompts: Iterator[str], writing: dict[str, Any]) -> None:
    for prompt in prompts:
        for piece in stream(loaded, prompt, **writing):
            print(piece, end="", flush=True)
        print()

"""Generate text with an export: continue prompts.

Prompts come from --prompt, from --prompt_file, or from standard input: lines of text,
or JSON objects with a "prompt". Each becomes one line of JSON with "prompt" and
"continuation". On a terminal, one prompt streams its text; without a prompt, every
line you type is continued. --gin_file is optional: it names the mesh.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

from salt_jax.commands.options import (
    GinOptions,
    add_distributed,
    add_gin,
    join,
    positive,
)
from salt_jax.generation.prompts import check_whole, prompts_of

EXAMPLES = """\
  salt_jax generate --export=runs/demo/exports/salt_ds --prompt='The capital of'
  salt_jax generate --export=/exports/salt_2p8b --prompt_file=prompts.jsonl \\
      --temperature=0.8 --top_p=0.95 > continuations.jsonl"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of generate."""

    export: Sequence[str] = ()
    max_length: int | None = None
    dtype: str | None = None
    prompt: str | None = None
    prompt_file: str | None = None
    max_new_tokens: int = 64
    stop: Sequence[str] = ()
    batch_size: int = 8
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if len(self.export) != 1:
            raise ValueError(
                f"generate needs one --export=DIR, got {len(self.export)}; the command "
                "export writes one."
            )
        if self.prompt is not None and self.prompt_file:
            raise ValueError("Give --prompt or --prompt_file, not both.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of generate."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--export", action="append", metavar="DIR", help="parameters (required)"
    )
    model.add_argument(
        "--max_length",
        type=positive,
        metavar="N",
        help="context length in tokens (default: the training length)",
    )
    model.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the computation (default: the export's)",
    )
    add_distributed(model.add_argument)
    _add_text(parser)
    _add_sampling(parser)
    add_gin(parser)


def _add_text(parser: argparse.ArgumentParser) -> None:
    text = parser.add_argument_group("text")
    text.add_argument("--prompt", metavar="TEXT", help="text to continue")
    text.add_argument(
        "--prompt_file",
        metavar="FILE",
        help="prompts, one a line, or JSON lines (default: standard input)",
    )
    text.add_argument(
        "--max_new_tokens",
        type=positive,
        metavar="N",
        help="most tokens after a prompt (default: %(default)s)",
    )
    text.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends a text; repeatable"
    )
    text.add_argument(
        "--batch_size",
        type=positive,
        metavar="N",
        help="prompts at a time (default: %(default)s)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="divides the logits; 0 takes the likeliest token (default: %(default)s)",
    )
    group.add_argument(
        "--top_k",
        type=int,
        metavar="N",
        help="sample from the N likeliest tokens (default: from all)",
    )
    group.add_argument(
        "--top_p",
        type=float,
        metavar="X",
        help="nucleus sampling: keep the smallest set of tokens with this total "
        "probability (default: all)",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="seed of sampling (default: %(default)s)"
    )


def run(options: Options) -> int:
    """Prints what an export writes after the prompts.

    Raises:
      FileNotFoundError: there is no such export, or file of prompts.
      ValueError: an option is out of range; there is no prompt, or one that is too
        long.
    """
    join(options.distributed)
    import jax

    from salt_jax.generation.detokenization import check_stop
    from salt_jax.generation.generate import generate
    from salt_jax.generation.sampling import Sampling

    check_stop(options.stop)
    writing: dict[str, Any] = {
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
        return 0
    prompts = _prompts(options, several=jax.process_count() > 1)
    loaded = _load(options)
    if is_watched and len(prompts) == 1:
        _show(loaded, iter(prompts), writing)
        return 0
    texts = generate(loaded, prompts, batch_size=options.batch_size, **writing)
    if jax.process_index() == 0:
        for prompt, text in zip(prompts, texts, strict=True):
            line = {"prompt": prompt, "continuation": text}
            print(json.dumps(line, ensure_ascii=False))
    return 0


def _prompts(options: Options, *, several: bool) -> list[str]:
    """Returns the prompts; `several` processes do not share a standard input."""
    if options.prompt is not None:
        check_whole(options.prompt, "--prompt")
        return [options.prompt]
    if not options.prompt_file:
        if several:
            raise ValueError(
                "Each of several processes has a standard input of its own: give "
                "--prompt or --prompt_file."
            )
        return prompts_of(sys.stdin.read())
    path = epath.Path(options.prompt_file)
    if not path.is_file():
        raise FileNotFoundError(f"No file of prompts at {path}.")
    return prompts_of(path.read_bytes(), where=str(path))


def _load(options: Options) -> Any:
    """Opens the export, on the mesh of the experiment if there is one."""
    from salt_jax.storage.loaded import LoadedModel

    return LoadedModel.open(
        options.export[0],
        max_length=options.max_length,
        writes=True,
        dtype=options.dtype,
        **options.placement("generate"),
    )


def _typed() -> Iterator[str]:
    logging.info("Type the beginning of a text; end with Control-D.")
    for line in sys.stdin:
        yield line.rstrip("\n")


def _show(loaded: Any, prompts: Iterator[str], writing: dict[str, Any]) -> None:
    from salt_jax.generation.generate import stream

    for prompt in prompts:
        for piece in stream(loaded, prompt, **writing):
            print(piece, end="", flush=True)
        print()

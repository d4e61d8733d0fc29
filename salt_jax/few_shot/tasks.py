"""Loads tasks by name: the embedded ones and those of lm-eval."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.tasks
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.utils import normalize_gen_kwargs

from salt_jax.data import embedded
from salt_jax.few_shot.known_tasks import KNOWN, NOTHING

SEED = DEFAULT_OTHER_SEED  # The seed of the few-shot examples.
# The names of packages that differ from their import names.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Loaded tasks and groups."""

    tasks: dict[str, Any]  # lm-eval's task objects, by name.
    groups: dict[str, Any]  # lm-eval's group objects, by name, with nested groups.
    loaded: Any  # Both, as the argument of lm-eval's evaluator.


def seed_globals() -> None:
    """Seeds the global random generators as lm-eval does; some tasks use them."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)


def load_tasks(names: Sequence[str], num_fewshot: int | None = None) -> Tasks:
    """Loads the tasks and groups `names`.

    Args:
      names: The names of embedded tasks and groups, or of lm-eval's.
      num_fewshot: The number of few-shot examples; None: the number in a task's file.
        Tasks whose file says 0 keep 0.

    Raises:
      ValueError: a name is unknown or repeated; the data of a task cannot be found or
        downloaded; a task has fewer than `num_fewshot` examples.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--tasks names {twice[0]!r} twice: name it once.")
    seed_globals()
    for noisy in ("lm_eval", "huggingface_hub"):  # Of hints, and of each attempt.
        logging.getLogger(noisy).setLevel(logging.ERROR)
    manager = _manager(names)
    loaded = _load(manager, names)
    for name, task in loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        # lm-eval's own rule: 0 in a task's file is meant.
        wanted = own if num_fewshot is None or own == 0 else num_fewshot
        _check_pool(name, task, wanted or 0)
        task.set_config(key="num_fewshot", value=wanted or 0)
    return Tasks(loaded["tasks"], loaded["groups"], loaded)


def check_room(tasks: Mapping[str, Any], max_length: int, model: str) -> None:
    """Refuses tasks whose answers do not fit the model's length.

    Args:
      tasks: lm-eval's task objects, by name.
      max_length: The maximum length of a prompt with its continuation, in tokens.
      model: The name of the model.

    Raises:
      ValueError: a task asks for at least that many new tokens.
    """
    asked = {name: _most_written(name, task) for name, task in tasks.items()}
    # Room for the begin token and at least one token of the question.
    large = [f"{name} ({n})" for name, n in asked.items() if n and n > max_length - 2]
    if large:
        raise ValueError(
            f"These tasks ask for more new tokens than {model} has room for, which "
            f"handles {max_length} with the prompt: {', '.join(large)}. Raise "
            "--max_length, or leave them out."
        )


def _most_written(name: str, task: Any) -> int | None:
    """Returns the number of new tokens that a task asks for, if it is known."""
    if type(task).construct_requests is not ConfigurableTask.construct_requests:
        return KNOWN.get(name, NOTHING).writes
    if task.OUTPUT_TYPE != "generate_until":
        return None
    kwargs = task.get_config("generation_kwargs") or {}
    return normalize_gen_kwargs(kwargs)["max_gen_toks"]


def _manager(names: Sequence[str]) -> lm_eval.tasks.TaskManager:
    """Returns a task manager that knows all `names`.

    Raises:
      ValueError: a name is unknown.
    """
    folder = str(embedded.resolve("embedded:evals"))
    own = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)
    if all(_is_complete(own, name) for name in names):
        return own
    manager = _all_tasks(folder)
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        close = difflib.get_close_matches(unknown[0], manager.all_tasks)
        raise ValueError(
            f"There is no task {unknown[0]!r}; {_or_none(close)}. Embedded tasks are "
            f"{', '.join(own.all_tasks)}; `lm_eval ls tasks` lists those of lm-eval."
        )
    return manager


@functools.cache
def _all_tasks(folder: str) -> lm_eval.tasks.TaskManager:
    # lm-eval has about ten thousand tasks, whose files take many seconds to read.
    return lm_eval.tasks.TaskManager(include_path=folder)


def _or_none(close: Sequence[str]) -> str:
    return f"close to it are {', '.join(close)}" if close else "nothing is close to it"


def _is_complete(manager: lm_eval.tasks.TaskManager, name: str) -> bool:
    """Returns whether `manager` knows `name` and, for a group, all its members."""
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task")
    if not isinstance(children, list):
        return True
    return all(_is_complete(manager, child) for child in children)


def _load(manager: lm_eval.tasks.TaskManager, names: Sequence[str]) -> Any:
    name = ""
    try:
        # One by one, to name a task without data; then together, to find duplicates.
        objects = [manager.load([name := each]) for each in names]
        built = [
            loaded["groups"].get(each) or list(loaded["tasks"].values())
            for each, loaded in zip(names, objects, strict=True)
        ]
        flat = [x for each in built for x in (each if type(each) is list else [each])]
        return manager.load(flat)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        install = f": pip install {_PACKAGES.get(package, package)}" if package else ""
        raise ValueError(
            f"The task {name!r} needs a package that is not installed: "
            f"{str(error).rstrip('.')}{install}."
        ) from error
    except OSError as error:  # The network, or a file.
        raise ValueError(
            f"The data of the task {name!r} is not cached and cannot be downloaded: "
            f"{str(error).rstrip('.')}. Download it on a machine with a network, and "
            "copy the folder that HF_HOME names."
        ) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        # Some tasks raise a plain Exception that says what to install.
        raise ValueError(f"The task {name!r} cannot be loaded: {error}") from error


def _check_pool(name: str, task: Any, wanted: int) -> None:
    pool = len(task.sampler.df) if wanted and hasattr(task, "sampler") else wanted
    if wanted < 0 or pool < wanted:
        raise ValueError(
            f"--num_fewshot={wanted}: {name} has examples for 0 to {pool}."
        )

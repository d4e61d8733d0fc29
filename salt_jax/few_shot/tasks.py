"""Tasks by name: those that come with the package, and lm-eval's own."""

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

SEED = DEFAULT_OTHER_SEED  # Of the few-shot examples.
# What a package is called where it is not called as what is imported.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks that are ready to be asked, and the groups that they were named by."""

    tasks: dict[str, Any]  # lm-eval's objects, by name.
    groups: dict[str, Any]  # The same; a group among the children of another too.
    loaded: Any  # Both, as lm-eval's evaluator takes them.


def seed_globals() -> None:
    """Seeds the generators that all share, as lm-eval does: tasks shuffle by them."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)


def load_tasks(names: Sequence[str], num_fewshot: int | None = None) -> Tasks:
    """Returns the tasks, and those of the groups, called `names`.

    Args:
      names: Of the embedded tasks and groups, or of lm-eval's own.
      num_fewshot: Examples before each question, where a task has any; by default as
        many as it says itself.

    Raises:
      ValueError: a name is unknown, or named twice; the data of a task is not here and
        cannot be fetched; a task has fewer examples.
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
    """Refuses tasks of which a model cannot write the answers.

    Args:
      tasks: lm-eval's objects, by name.
      max_length: The tokens that the model reads and writes together.
      model: What it is called.

    Raises:
      ValueError: some ask for as many new tokens, or more.
    """
    asked = {name: _most_written(name, task) for name, task in tasks.items()}
    # The begin token, and one of the question.
    large = [f"{name} ({n})" for name, n in asked.items() if n and n > max_length - 2]
    if large:
        raise ValueError(
            f"These tasks ask for more new tokens than {model} has room for, which "
            f"reads and writes {max_length} together: {', '.join(large)}. Give a "
            "greater --max_length, or leave them out."
        )


def _most_written(name: str, task: Any) -> int | None:
    """Returns the new tokens that a task asks for, if that is known beforehand."""
    if type(task).construct_requests is not ConfigurableTask.construct_requests:
        return KNOWN.get(name, NOTHING).writes
    if task.OUTPUT_TYPE != "generate_until":
        return None
    kwargs = task.get_config("generation_kwargs") or {}
    return normalize_gen_kwargs(kwargs)["max_gen_toks"]


def _manager(names: Sequence[str]) -> lm_eval.tasks.TaskManager:
    """Returns what knows all of `names`.

    Raises:
      ValueError: there is no such thing.
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
            f"There is no task {unknown[0]!r}; {_or_none(close)}. Those that come "
            f"with the package are {', '.join(own.all_tasks)}, and of lm-eval's own "
            "`lm_eval ls tasks` lists all."
        )
    return manager


@functools.cache
def _all_tasks(folder: str) -> lm_eval.tasks.TaskManager:
    # lm-eval has some ten thousand tasks, whose files take many seconds to read.
    return lm_eval.tasks.TaskManager(include_path=folder)


def _or_none(close: Sequence[str]) -> str:
    return f"close to it are {', '.join(close)}" if close else "nothing is close to it"


def _is_complete(manager: lm_eval.tasks.TaskManager, name: str) -> bool:
    """Returns whether `manager` knows `name` and, of a group, all that is in it."""
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
        # One at a time, to say which has no data; then together, to see what is twice.
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
            f"The task {name!r} needs more than is here: "
            f"{str(error).rstrip('.')}{install}."
        ) from error
    except OSError as error:  # The errors of a network, and of files, are such.
        raise ValueError(
            f"The data of the task {name!r} is not here, and cannot be fetched: "
            f"{str(error).rstrip('.')}. Fetch it where there is a network, and copy "
            "the folder that HF_HOME names."
        ) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        # By nothing more special than this some tasks say what is to be installed.
        raise ValueError(f"The task {name!r} cannot be loaded: {error}") from error


def _check_pool(name: str, task: Any, wanted: int) -> None:
    pool = len(task.sampler.df) if wanted and hasattr(task, "sampler") else wanted
    if wanted < 0 or pool < wanted:
        raise ValueError(
            f"--num_fewshot={wanted}: {name} has examples for 0 to {pool}."
        )

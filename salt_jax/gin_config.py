"""The only reader of gin: text in, one frozen value out, and then it is over."""

from __future__ import annotations

import contextvars
import logging
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TextIO

import gin

from salt_jax.config import Experiment, Scoring
from salt_jax.data.preparing.prepare import Preparation

# What can be run, and the field without which it is not meant: shared files may bind
# others of all of them.
ROOTS = {Experiment: "stages", Scoring: "scorer", Preparation: "corpus"}

# What an override may name, whatever the files have imported.
_IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from salt_jax import config",
    "from salt_jax.optim import optimizer",
    "from salt_jax.mesh import partitioning",
    "from salt_jax.optim import schedules",
    "from salt_jax.data.corpora import document",
    "from salt_jax.data.selecting import near_duplicates",
    "from salt_jax.data.reading import answers",
    "from salt_jax.data.reading import mixture",
    "from salt_jax.data.reading import objectives",
    "from salt_jax.data.reading import prepared_text",
    "from salt_jax.data.reading import seqio_data",
    "from salt_jax.data.preparing import prepare",
    "from salt_jax.data.selecting import ranking",
    "from salt_jax.data.selecting import selection",
    "from salt_jax.model import config as model",
)


# The folders of the files that `load` was given, while it reads them.
_FOLDERS = contextvars.ContextVar[Sequence[pathlib.Path]]("folders", default=())


def load(
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Experiment | Scoring | Preparation:
    """Reads what to run; after this returns, no code consults gin again.

    A gin file, named or included, is looked for in the working directory, beside the
    named files, and among the gin files of salt_jax: "salt_2p8b.gin" and
    "gin/salt_2p8b.gin" are the same one. Python modules that a gin file imports may
    stand in the first two places, which are appended to `sys.path`.

    Args:
      gin_files: Paths; a later file overrides an earlier one.
      overrides: Bindings such as "KD_WEIGHT = 0.5".
      imports: Modules that overrides may name, such as "my_schedules".

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: gin cannot read it, a value is refused, or a binding had no effect.
    """
    paths = [_named(name) for name in gin_files]
    folders = [path.parent for path in paths]
    _FOLDERS.set(folders)
    importable = map(str, (pathlib.Path.cwd(), *folders))
    sys.path += [
        folder for folder in dict.fromkeys(importable) if folder not in sys.path
    ]
    gin.clear_config()
    try:
        _parse(paths)
        in_files = gin.config_str(max_line_length=10**6)
        of_user = [f"import {module}" for module in imports]
        gin.parse_config([*_IMPORTS, *_imports(in_files), *of_user, *overrides])
        value = gin.get_configurable(_root())()
    except OSError as error:  # Of a file that one of these includes.
        raise FileNotFoundError(_one_line(error)) from error
    except (
        AttributeError,
        ImportError,
        NameError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(_one_line(error)) from error
    _refuse_unused(in_files, overrides)
    return value


def _parse(paths: Sequence[pathlib.Path]) -> None:
    # Gin's own reader of resources reports each file that a later reader finds.
    root = logging.getLogger()
    root.addFilter(_not_of_resources)
    try:
        for path in paths:
            gin.parse_config_file(str(path))
    finally:
        root.removeFilter(_not_of_resources)


def _not_of_resources(record: logging.LogRecord) -> bool:
    return record.module != "resource_reader"


def own_folder() -> pathlib.Path:
    """Returns the folder of salt_jax's own gin files.

    An installed package has it within, a checkout beside the package.
    """
    package = pathlib.Path(__file__).parent
    installed = package / "gin_files"
    return installed if installed.is_dir() else package.parent / "gin"


def _named(name: str) -> pathlib.Path:
    """Returns the path of a gin file that is named to be run."""
    if pathlib.Path(name).is_file():
        return pathlib.Path(name).absolute()
    if (found := _found(name)) is not None:
        return found
    raise FileNotFoundError(f"No gin file at {name!r}, nor in {own_folder()}.")


def _found(name: str, folders: Sequence[pathlib.Path] = ()) -> pathlib.Path | None:
    """Returns where a gin file lies that is not in the working directory."""
    own = own_folder()
    paths = [folder / name for folder in (*folders, own)]
    paths.append(own / name.removeprefix("gin/"))
    return next((path for path in paths if path.is_file()), None)


def _open(name: str) -> TextIO:
    path = _found(name, _FOLDERS.get())
    assert path is not None
    return path.open(encoding="utf-8")


gin.config.register_file_reader(
    _open, lambda name: _found(name, _FOLDERS.get()) is not None
)


def _imports(text: str) -> list[str]:
    """Returns the imports that files have made, for what overrides may name."""
    return re.findall(r"^(?:import|from (?!__gin__)) .*$", text, flags=re.MULTILINE)


def operative_config() -> str:
    """Returns, as gin text, the bindings that the last `load` made use of."""
    return gin.operative_config_str()


def _root() -> type:
    bound = {_short(name) for name in _bindings(gin.config_str())}
    roots = [
        root for root, field in ROOTS.items() if f"{root.__name__}.{field}" in bound
    ]
    if len(roots) != 1:
        names = ", ".join(root.__name__ for root in ROOTS)
        found = ", ".join(root.__name__ for root in roots) or "none"
        raise ValueError(f"The gin files must bind one of {names}; they bind {found}.")
    return roots[0]


def _refuse_unused(in_files: str, overrides: Sequence[str]) -> None:
    """Refuses bindings that changed nothing: a misspelled one looks just like that.

    Gin accepts any scope and any macro name. An override must have been read. In a
    file, a class that nothing built may be an alternative that was not chosen.
    """
    used = _bindings(gin.operative_config_str())
    text = gin.config_str(max_line_length=10**6)
    unused = [
        name for name in _bindings("\n".join(overrides)) if not _is_read(name, used)
    ]
    unused += [
        name
        for name in _bindings(in_files)
        if not _is_read(name, used) and not _is_alternative(name, used, text)
    ]
    if unused:
        raise ValueError(
            f"These bindings had no effect: {', '.join(sorted(set(unused)))}. Check "
            "their spelling; gin accepts any scope or macro name."
        )


def _is_alternative(name: str, used: Sequence[str], text: str) -> bool:
    """Returns whether a binding would be read if another choice were made in `text`."""
    *scope, target = name.split("/")
    if "." not in target:
        return re.search(rf"%{target}\b", text) is not None
    if scope and f"@{'/'.join(scope)}/" in text:
        return True
    return _class_of(name) not in {_class_of(other) for other in used}


def _is_read(name: str, used: Sequence[str]) -> bool:
    """Returns whether a binding is among `used`.

    One made in a scope is also read by references nested in that scope, so "X.a"
    counts as read when only "distill/X.a" is in the operative config.
    """
    *scope, target = name.split("/")
    for other in used:
        *other_scope, other_target = other.split("/")
        same = _short(other_target) == _short(target)
        if same and other_scope[: len(scope)] == scope:
            return True
    return False


def _short(target: str) -> str:
    """Returns "Class.field" of "module.Class.field"; a macro's name as it is."""
    return ".".join(target.split(".")[-2:])


def _class_of(name: str) -> str:
    return _short(name.split("/")[-1]).split(".")[0]


def _bindings(text: str) -> list[str]:
    return re.findall(r"^\s*([\w./]+)\s*=", text, flags=re.MULTILINE)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

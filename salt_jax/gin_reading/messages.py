"""One-line messages for gin's errors: place, problem and allowed values."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterable, Sequence

from salt_jax.gin_reading import files

_IN_FILE = re.compile(r'\n  In file "(.*)", line (\d+)\n.*(?:\n *\^)?')
_IN_TEXT = re.compile(r"\n  In bindings string line \d+\n\s*(.*)(?:\n *\^)?")
_CALL = re.compile(
    r"\n  In call to configurable '(\w+)' \(<.*?>\)(?: in scope '(.*?)')?(?=\n|$)"
)
_MODULE = re.compile(r"; <module '([\w.]+)'.*> has no attribute (\w+)\.")
_NO_FIELD = re.compile(r"Configurable '(.*)' doesn't have a parameter named '(.*)'\.")
_MISSING = re.compile(r"\.__init__\(\) missing \d+ required .*?arguments?: (.*)")


def not_set(names: Iterable[str]) -> str:
    """Returns a message that names are still bound to %gin.REQUIRED."""
    return " ".join(f"{x} is not set: give --gin.{x}=VALUE." for x in sorted(names))


def of_override(override: str, error: Exception) -> str:
    """Returns a message that an override is not gin text."""
    name, _, value = override.partition("=")
    what = f"The override {override!r} cannot be read"
    if re.fullmatch(r"\s*[\w./:-]+\s*", value):  # A string without its quotes.
        quoted = f"--gin.{name.strip()}=\"'{value.strip()}'\""
        return (
            f"{what}: a value is a Python literal, @module.Class() or %MACRO; a string "
            f"needs quotes of its own, as in {quoted}."
        )
    return (
        f"{what} ({_first_line(error)}): it is NAME = VALUE, a Python literal or @X()."
    )


def of_gin(error: Exception, paths: Sequence[pathlib.Path] = ()) -> str:
    """Returns a one-line message for an error of gin or of a value that it builds.

    Args:
      error: The error.
      paths: The gin files that were read.
    """
    if isinstance(error, tokenize.TokenError):
        what, (line, _) = error.args
        return f"{files.all_shown(paths)}: {what}, from line {line} on."
    if isinstance(error, RecursionError):
        named = files.all_shown(paths) or "A gin file"
        return f"{named} includes itself, or a macro refers to itself."
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        shown = files.shown(error.filename)
        shown = files.all_shown(paths) if error.filename == "<tokenize>" else shown
        place = f"{shown}, line {error.lineno}"
        return f"{place}: {_first_line(error)} in {line!r}."
    text = str(error)
    where = [
        f"{files.shown(path)}, line {line}: " for path, line in _IN_FILE.findall(text)
    ]
    where += [f"{line}: " for line in _IN_TEXT.findall(text)]
    calls = _CALL.findall(text)
    for pattern in (_IN_FILE, _IN_TEXT, _CALL):
        text = pattern.sub("", text)
    text = _what(text.split("\n  No values supplied by Gin")[0], calls)
    if isinstance(error, TypeError) and calls and not where:
        text = f"{calls[0][0]}: {text}"
    if not where and isinstance(error, (AttributeError, TypeError)) and not calls:
        where = [f"{files.all_shown(paths)}: "] * bool(paths)
    return "".join(where[:1]) + " ".join(text.split())


def _first_line(error: Exception) -> str:
    return str(error.args[0]).splitlines()[0].rstrip(".")


def _what(text: str, calls: list[tuple[str, str]]) -> str:
    """Returns the problem without its place, with the allowed names."""
    if match := _MODULE.search(text):
        module, name = match.groups()
        return f"{module} has no {name}; {_one_of(name, _classes(module))}."
    if match := _NO_FIELD.search(text):
        selector, name = match.groups()
        return f"{selector} has no field {name}; {_one_of(name, _fields(selector))}."
    if "macro() missing" in text and calls:
        return not_set([calls[0][1]])
    if (match := _MISSING.search(text)) and calls:
        scope = f" in the scope {calls[0][1]}" if calls[0][1] else ""
        return f"{match[1]} must be bound{scope}."
    if "was not provided by an import statement" in text:
        return f"{text} A file needs `import MODULE`, an override --gin_import=MODULE."
    if text.startswith("Unable to open file: "):
        name = text.removeprefix("Unable to open file: ").split(". Searched")[0]
        return f"No gin file at {name!r}, nor in {files.own_folder()}."
    return text


def _classes(module: str) -> list[str]:
    """Returns the names of the dataclasses that a module or package defines."""
    return [
        name
        for name, value in vars(sys.modules[module]).items()
        if dataclasses.is_dataclass(value)
        and f"{value.__module__}.".startswith(f"{module}.")
    ]


def _fields(selector: str) -> list[str]:
    """Returns the fields of the dataclass that a selector names, in any module."""
    name = selector.split(".")[-1]
    # An entry is None where the import of a module is blocked.
    for module in filter(None, list(sys.modules.values())):
        value = vars(module).get(name)
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            return [field.name for field in dataclasses.fields(value)]
    return []


def _one_of(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}" if close else f"it has {', '.join(names)}"

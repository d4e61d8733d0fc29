"""JSON that salt_jax owns: decoded into typed values, with a checksum that is compared.

A record is a JSON object whose last field, "checksum", digests the others. What the
file holds is checked against a type: a dataclass or a TypedDict. JSON of others is read
as an object, by `read_object`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

import msgspec
from etils import epath

from salt_jax.files.reading import DamagedFileError, read_file
from salt_jax.files.writing import write_file

Value = TypeVar("Value")

CHECKSUM = "checksum"


def decode(text: str | bytes, kind: type[Value], *, where: str, remedy: str) -> Value:
    """Returns the JSON in `text` as a value of the type `kind`.

    Args:
      text: JSON.
      kind: The type to decode into, such as a dataclass or `dict[str, Any]`.
      where: The file, or the line of a file, for messages.
      remedy: What a person can do about a damaged one, such as "export again".

    Raises:
      ValueError: `text` is not JSON, or not of this type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} cannot be read ({said}): {remedy}.") from error


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns JSON fields with the checksum of all of them added at the end.

    They are as they will be read: tuples are lists, keys are text, and a number that is
    not finite is null.
    """
    fields = _as_read({name: fields[name] for name in fields if name != CHECKSUM})
    return fields | {CHECKSUM: _checksum(fields)}


def record_line(fields: dict[str, Any]) -> str:
    """Returns JSON fields as a sealed record on a line of its own."""
    return json.dumps(seal(fields)) + "\n"


def decode_record(
    text: str | bytes, kind: type[Value], *, where: str, remedy: str
) -> Value:
    """Returns a sealed record as a value of the type `kind`; arguments as for `decode`.

    Raises:
      DamagedFileError: the checksum is missing or differs.
      ValueError: `text` is not JSON, or not of this type.
    """
    fields = decode(text, dict[str, Any], where=where, remedy=remedy)
    if CHECKSUM not in fields:
        raise DamagedFileError(
            f"{where} has no checksum: it is damaged, or of an older version: {remedy}."
        )
    found = fields.pop(CHECKSUM)
    if found != _checksum(fields):
        raise DamagedFileError(
            f"{where} is damaged: its checksum is {str(found)[:40]!r}, not "
            f"{_checksum(fields)} as its contents have it: {remedy}."
        )
    return typed(fields, kind, where=where, remedy=remedy)


def typed(fields: Any, kind: type[Value], *, where: str, remedy: str) -> Value:
    """Returns decoded JSON as a value of the type `kind`; arguments as for `decode`.

    Raises:
      ValueError: `fields` is not of this type.
    """
    try:
        return msgspec.convert(fields, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} cannot be read ({said}): {remedy}.") from error


def read_record(path: epath.PathLike, kind: type[Value], *, remedy: str) -> Value:
    """Returns the sealed record in a file; arguments and errors as `decode_record`.

    Raises:
      OSError: there is no such file, or it cannot be read.
    """
    return decode_record(read_file(path), kind, where=str(path), remedy=remedy)


def read_lines(path: epath.PathLike, kind: type[Value], *, remedy: str) -> list[Value]:
    """Returns the records that `record_line` wrote, one a line.

    Without its newline the last line is what a killed process left: it is dropped,
    unless it is whole. Arguments as for `decode_record`.

    Raises:
      DamagedFileError: a checksum is missing or differs.
      ValueError: a line is not JSON, or not of this type.
      OSError: there is no such file, or it cannot be read.
    """
    *lines, rest = read_file(path).split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        found.append(decode_record(line, kind, where=where, remedy=remedy))
    for line in (rest, rest[:-1]):
        where = f"{path}:{len(lines) + 1}"
        try:
            last = decode_record(line, kind, where=where, remedy=remedy)
        except ValueError:
            continue
        if line is not rest:
            raise DamagedFileError(f"{where} ends in {rest[-1:]!r}: {remedy}.")
        found.append(last)
        break
    return found


def write_record(path: epath.PathLike, fields: dict[str, Any]) -> None:
    """Writes JSON fields as a sealed record, indented, replacing what is at `path`.

    Raises:
      OSError: the file cannot be written; what was there is still there.
    """
    write_file(path, record_bytes(fields))


def record_bytes(fields: dict[str, Any]) -> bytes:
    """Returns JSON fields as `write_record` writes them."""
    return (json.dumps(seal(fields), indent=2) + "\n").encode()


def decode_object(text: str | bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in `text`, which another program wrote.

    As in Python's json, there may be numbers that are not finite, and half surrogates.
    Arguments as for `decode`.

    Raises:
      ValueError: `text` is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} is not JSON ({said}): {remedy}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object: {remedy}.")
    return value


def read_object(path: epath.PathLike, *, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in a file of another program; errors as `decode_object`.

    Raises:
      OSError: there is no such file, or it cannot be read.
    """
    return decode_object(read_file(path), where=str(path), remedy=remedy)


def _as_read(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns fields as a file of theirs is read."""
    # Half a surrogate pair, from a file name that is not UTF-8, is not JSON: "?".
    text = json.dumps(fields, ensure_ascii=False).encode(errors="replace")
    return json.loads(text, parse_constant=lambda _: None)


def _checksum(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Damage to files: changed bytes, as of a bad disk, and values, as of others."""

import json
import shutil

from salt_jax.files.records import record_bytes, record_line

DIRECTORY, MISSING = "a directory", "missing"
VALUES = (
    *(None, True, -1, 0, 1.5, 1e308, -0.0, 2**31, 2**63, 10**30, "", "x", "\0"),
    *("x" * 2000, "../x", "1", "\ud800", [], {}, [[]], {"": {}}, [None], {"x": [1]}),
)


def flip(rng, data):
    """Flips one bit."""
    bit = rng.randrange(8 * len(data))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def truncate(rng, data):
    """Cuts the end off."""
    return data[: rng.randrange(len(data))]


def splice(rng, data):
    """Copies a piece to another place, over what is there or between it."""
    begin, to = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[begin : begin + rng.randrange(1, 200)]
    return data[:to] + piece + data[to + rng.choice((0, len(piece))) :]


def remove(rng, data):
    """Removes a piece."""
    begin = rng.randrange(len(data))
    return data[:begin] + data[begin + rng.randrange(1, 200) :]


def scramble(rng, data):
    """Writes random bytes over a piece, or over all of it."""
    size = rng.choice((1, 8, 64, len(data)))
    begin = rng.randrange(max(1, len(data) - size + 1))
    return data[:begin] + rng.randbytes(size) + data[begin + size :]


def nest(rng, data):
    """Puts very deep nesting, or a very long number, somewhere."""
    at = rng.randrange(len(data))
    added = rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b"1e999"))
    return data[:at] + added + data[at:]


def replace(rng, data):
    """Replaces the file by another thing."""
    return rng.choice(
        (b"", b"\0" * len(data), b"null", b"[]", b"{}", DIRECTORY, MISSING)
    )


BYTES = (flip, flip, truncate, splice, remove, scramble, nest, replace)


def retype(rng, data):
    """Changes the JSON in a file as another program would: its checksum is true."""
    try:
        lines = [json.loads(line) for line in data.decode().splitlines()]
        one_a_line = True
    except ValueError:
        lines, one_a_line = [json.loads(data)], False
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change(rng, rng.choice(lines))
    if one_a_line and len(lines) > 1:
        return "".join(map(record_line, lines)).encode()
    return record_bytes(lines[0])


def _change(rng, tree):
    """Changes one value of nested JSON, or removes or adds one."""
    places = list(_places(tree))
    parent, key = rng.choice(places) if places else (tree, "x")
    how = rng.randrange(5)
    if how == 0 and isinstance(parent, dict):
        parent.pop(key, None)
    elif how == 1:
        if isinstance(parent, dict):
            parent[rng.choice(("x", "", "step", "files"))] = _value(rng)
        else:
            parent.append(_value(rng))
    elif how == 2 and places:
        other, its = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[its]))
    else:
        parent[key] = _value(rng)


def _value(rng):
    return json.loads(json.dumps(rng.choice(VALUES)))


def _places(tree):
    """Yields the parent and the key of every value, but for checksums."""
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    for key, value in items:
        if key != "checksum":
            yield tree, key
        if isinstance(value, (list, dict)):
            yield from _places(value)


def put(path, contents):
    """Writes what a mutation returned, or puts a directory or nothing there."""
    clear(path)
    if contents == DIRECTORY:
        path.mkdir()
    elif contents != MISSING:
        path.write_bytes(contents)


def clear(path):
    """Removes a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

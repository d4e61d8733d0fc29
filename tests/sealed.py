"""Changes to records on disk that keep their checksums true."""

import json
import pathlib

from salt_jax.files.records import record_line, write_record


def change(path, **fields):
    """Changes fields of the record in a file."""
    write_record(path, json.loads(pathlib.Path(path).read_text()) | fields)


def replace(path, old, new):
    """Replaces text in the file of a record, which must be there."""
    text = pathlib.Path(path).read_text()
    assert old in text
    write_record(path, json.loads(text.replace(old, new)))


def write_lines(path, records):
    """Writes records, one a line."""
    pathlib.Path(path).write_text("".join(map(record_line, records)))

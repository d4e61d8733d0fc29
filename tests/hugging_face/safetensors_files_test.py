"""Files of tensors lie in buckets as well as on disk."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from salt_jax.hugging_face.safetensors_files import open_tensors
from salt_jax.hugging_face.safetensors_writing import write_tensors

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


class BucketFile:
    """Does what a file of TensorFlow can, by which buckets are read and written."""

    def __init__(self, file):
        self._file = file
        self.reads = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def seek(self, offset):
        self._file.seek(offset)

    def read(self, count):
        self.reads.append(count)
        return self._file.read(count)

    def write(self, content):
        assert type(content) is bytes
        self._file.write(content)


@dataclasses.dataclass(frozen=True)
class BucketPath:
    path: pathlib.Path
    files: list = dataclasses.field(compare=False)

    @property
    def name(self):
        return self.path.name

    def __truediv__(self, name):
        return BucketPath(self.path / name, self.files)

    def exists(self):
        return self.path.exists()

    def stat(self):
        return types.SimpleNamespace(length=self.path.stat().st_size)

    def open(self, mode):
        self.files.append(BucketFile(self.path.open(mode)))
        return self.files[-1]


@pytest.fixture
def bucket(tmp_path):
    """A bucket with one tensor in it, written in pieces."""
    bucket = BucketPath(tmp_path, [])
    write_tensors(bucket, {"a": ROWS.shape}, "float32", lambda _: [ROWS[:7], ROWS[7:]])
    return bucket


def test_files_of_a_bucket_are_read_a_part_at_a_time(bucket):
    np.testing.assert_array_equal(open_tensors(bucket)["a"].read(100), ROWS)
    assert bucket.files[-1].reads == [100, 100, 40]


def test_a_file_that_was_cut_since_it_was_opened_is_refused(bucket):
    tensor = open_tensors(bucket)["a"]
    path = bucket.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends within 'a'"):
        tensor.read()

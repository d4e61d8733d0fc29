import jax
import jax.numpy as jnp
import pytest

from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.storage.array_files import CorruptArraysError, write_arrays
from salt_jax.storage.checksums import checksums
from salt_jax.storage.stored_sums import check_index, stored_checksums
from tests.storage.checkpoint_test import arrays_of, filled, made

ARRAYS = checksums(made(3))


@pytest.fixture
def path(tmp_path):
    return filled(tmp_path, 3) / "3" / "state"


def test_stored_arrays_have_the_checksums_of_those_in_memory(path):
    check_index(path, ARRAYS)
    assert dict(stored_checksums(path, ARRAYS)) == ARRAYS


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_arrays_are_summed_in_pieces_of_whole_chunks(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("salt_jax.storage.stored_sums.CHUNK_BYTES", 300)
    values = (jax.random.normal(jax.random.key(0), (7, 4, 5)) * 9).astype(dtype)
    mesh = Partitioning(mesh=MeshShape(data=8).build())
    tree = {"params": {"w": values, "step": jnp.int32(3)}}
    tree = mesh.materialize(lambda: tree)
    write_arrays(tmp_path / "x", tree)
    recorded = checksums(tree)
    assert dict(stored_checksums(tmp_path / "x", recorded)) == recorded


def test_an_array_that_is_missing_or_of_another_shape_is_named(path):
    with pytest.raises(CorruptArraysError, match="Opening params.none in "):
        check_index(path, {"params.none": "float32[2] 00"})
    with pytest.raises(CorruptArraysError, match=r"step is int32\[\], and int32\[2\]"):
        check_index(path, {"step": "int32[2] 00"})


def test_arrays_whose_files_are_gone_are_named(path):
    for file in arrays_of(path.parent):
        file.unlink()
    with pytest.raises(CorruptArraysError, match=f"in {path} failed"):
        check_index(path, ARRAYS)

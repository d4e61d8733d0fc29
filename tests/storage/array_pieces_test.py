import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from etils import epath

from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.storage import array_files, array_pieces
from salt_jax.storage.array_files import (
    CorruptArraysError,
    fingerprint,
    read_arrays,
    write_arrays,
)
from salt_jax.storage.array_pieces import ArrayWriter, StoredArrays, contiguous

LAYERS, ROWS, COLUMNS = 3, 10, 8
GATE, EMBEDDING = "params.layers.mlp.gate", "params.embedding_VD"
SHAPES = {
    GATE: (LAYERS, ROWS, COLUMNS),
    EMBEDDING: (7, 4, 2),
    "params.final_norm.scale": (5,),
}
MESHES = [MeshShape(), MeshShape(data=4, model=2)]


@pytest.fixture(params=["float32", "bfloat16"])
def arrays(request):
    draw = np.random.default_rng(0)
    return {
        name: draw.standard_normal(shape).astype(jnp.dtype(request.param))
        for name, shape in SHAPES.items()
    }


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    # Three rows of a layer in float32: the last piece of ten is short.
    for module in (array_files, array_pieces):
        monkeypatch.setattr(module, "CHUNK_BYTES", 3 * COLUMNS * 4)


def as_tree(arrays):
    tree = {}
    for name, x in arrays.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = x
    return tree


def write(path, arrays):
    writer = ArrayWriter(epath.Path(path), arrays)
    for name, x in arrays.items():
        if name == GATE:
            for layer in (2, 0, 1):
                # As transformers has it: rows of ours are columns of theirs.
                theirs = np.ascontiguousarray(x[layer].T)
                writer.write(name, theirs.T, layer)
        else:
            writer.write(name, x)
    return writer.finish()


@pytest.mark.parametrize("mesh", MESHES, ids=["1", "4x2"])
def test_orbax_reads_what_was_written_in_pieces_onto_any_mesh(tmp_path, arrays, mesh):
    write(tmp_path, arrays)
    devices = jax.devices()[: (mesh.data or 1) * mesh.model]
    sharding = Partitioning(mesh=mesh.build(devices)).sharding()
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        as_tree(arrays),
    )
    found = read_arrays(epath.Path(tmp_path), like)
    jax.tree.map(np.testing.assert_array_equal, found, as_tree(arrays))


def test_a_fingerprint_of_pieces_is_that_of_the_whole(tmp_path, arrays):
    assert write(tmp_path, arrays) == fingerprint(
        jax.tree.map(jnp.asarray, as_tree(arrays))
    )


@pytest.mark.parametrize("is_in_pieces", [True, False], ids=["pieces", "orbax"])
def test_pieces_that_are_read_make_up_the_arrays(tmp_path, arrays, is_in_pieces):
    path = epath.Path(tmp_path) / "params"
    if is_in_pieces:
        write(path, arrays)
    else:
        write_arrays(path, jax.tree.map(jnp.asarray, as_tree(arrays)))
    stored = StoredArrays(path)
    assert {name: x.shape for name, x in stored.shapes.items()} == SHAPES
    for name, x in arrays.items():
        layers = range(LAYERS) if name == GATE else [None]
        for layer in layers:
            pieces = list(stored.pieces(name, layer))
            whole = x if layer is None else x[layer]
            np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), whole)
            assert [begin for begin, _ in pieces] == list(
                np.cumsum([0, *(len(y) for _, y in pieces)])[:-1]
            )
            # Orbax splits columns too; of whole rows it takes a few chunks more.
            assert max(y.nbytes for _, y in pieces) <= 5 * COLUMNS * 4
    assert stored.fingerprint() == fingerprint(
        jax.tree.map(jnp.asarray, as_tree(arrays))
    )


@pytest.mark.parametrize("is_in_pieces", [True, False], ids=["pieces", "orbax"])
def test_a_folder_may_have_any_name(tmp_path, arrays, is_in_pieces):
    path = epath.Path(tmp_path) / "50%20 of#it?"
    if is_in_pieces:
        write(path, arrays)
    else:
        write_arrays(path, jax.tree.map(jnp.asarray, as_tree(arrays)))
    ((_, piece), *_) = StoredArrays(path).pieces("params.final_norm.scale")
    np.testing.assert_array_equal(piece, arrays["params.final_norm.scale"])
    assert [x.name for x in tmp_path.iterdir()] == [path.name]


def test_a_stack_is_stored_layer_by_layer_by_orbax_too(tmp_path, arrays):
    path = epath.Path(tmp_path) / "params"
    write_arrays(path, jax.tree.map(jnp.asarray, as_tree(arrays)))
    store = {"driver": "ocdbt", "base": f"file://{path}/", "path": f"{GATE}/"}
    stored = tensorstore.open({"driver": "zarr", "kvstore": store}).result()
    assert stored.chunk_layout.read_chunk.shape[0] == 1


def test_heads_in_a_row_become_heads(tmp_path):
    shapes = {"out": jax.ShapeDtypeStruct((4, 2, 3), np.float32)}
    writer = ArrayWriter(epath.Path(tmp_path), shapes)
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    writer.write("out", values)
    writer.finish()
    ((_, first), *rest) = StoredArrays(epath.Path(tmp_path)).pieces("out")
    assert not rest
    np.testing.assert_array_equal(first, values.reshape(4, 2, 3))


def test_values_are_cast_to_the_dtype_of_the_array(tmp_path):
    shapes = {"x": jax.ShapeDtypeStruct((4, 3), jnp.bfloat16)}
    writer = ArrayWriter(epath.Path(tmp_path), shapes)
    values = np.random.default_rng(0).standard_normal((4, 3), np.float32)
    writer.write("x", values)
    writer.finish()
    ((_, found),) = StoredArrays(epath.Path(tmp_path)).pieces("x")
    np.testing.assert_array_equal(found, values.astype(jnp.bfloat16))


def test_an_array_of_which_a_piece_was_not_written_is_not_finished(tmp_path):
    shapes = {GATE: jax.ShapeDtypeStruct(SHAPES[GATE], np.float32)}
    writer = ArrayWriter(epath.Path(tmp_path), shapes)
    writer.write(GATE, np.ones((ROWS, COLUMNS), np.float32), 1)
    with pytest.raises(AssertionError, match=GATE):
        writer.finish()


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_chunk_that_is_gone_or_cut_is_corrupt_and_not_zeros(tmp_path, damage):
    zeros = {GATE: np.zeros(SHAPES[GATE], np.float32)}
    write(tmp_path, zeros)
    chunk = tmp_path / GATE / "1.0.0"
    if damage == "removed":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-1])
    stored = StoredArrays(epath.Path(tmp_path))
    assert list(stored.pieces(GATE, 0))
    with pytest.raises(CorruptArraysError, match=rf"{GATE} in .* is corrupt"):
        list(stored.pieces(GATE, 1))


def test_a_folder_that_holds_no_arrays_is_corrupt(tmp_path):
    with pytest.raises(CorruptArraysError, match=r"cannot be read"):
        StoredArrays(epath.Path(tmp_path))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(300, 5), (129, 257), (1, 7)])
def test_a_transposed_matrix_is_copied_as_it_is(shape, dtype):
    matrix = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = contiguous(matrix.T)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, matrix.T)

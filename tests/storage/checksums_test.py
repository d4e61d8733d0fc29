import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from salt_jax.mesh.partitioning import MeshShape
from salt_jax.storage import checksums

SHAPES = [(), (7,), (6, 8), (2, 3, 8), (2, 0)]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.int8, jnp.bool_]
each_array = pytest.mark.parametrize(
    ("shape", "dtype"), [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
)


def array(shape, dtype=jnp.float32):
    values = jax.random.normal(jax.random.key(1), shape) * 50
    return values.astype(dtype)


def sums_of(x):
    return checksums.sums_of_piece(np.asarray(x), [0] * x.ndim, x.shape)


@each_array
def test_the_host_and_the_devices_agree(shape, dtype):
    x = array(shape, dtype)
    np.testing.assert_array_equal(jax.jit(checksums._sums)(x), sums_of(x))


def test_a_checksum_is_the_same_on_every_mesh():
    x = array((4, 6, 16))
    mesh = MeshShape(data=2, model=4).build()
    specs = [(), ("data",), (None, "data", "model"), ("model", None, "data")]
    for spec in specs:
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        assert checksums.checksums({"x": placed}) == checksums.checksums({"x": x})


def test_the_sums_of_pieces_add_up():
    x = np.asarray(array((3, 5, 8)))
    total = np.zeros(2, np.uint32)
    for layer in range(3):
        for begin in range(0, 5, 2):
            piece = x[layer : layer + 1, begin : begin + 2]
            total += checksums.sums_of_piece(piece, (layer, begin, 0), x.shape)
    np.testing.assert_array_equal(total, sums_of(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_changed_bit_changes_both_sums(dtype):
    x = np.array(array((2, 3, 4), dtype))
    before = sums_of(x)
    bits = x.view(np.uint8).reshape(-1)
    for position in range(bits.size * 8):
        bits[position // 8] ^= 1 << position % 8
        assert (sums_of(x) != before).all()
        bits[position // 8] ^= 1 << position % 8


def test_moved_values_change_a_sum():
    x = np.array(array((4, 6)))
    for other in (x[::-1], x[:, ::-1], np.roll(x, 1), x * 0, x.T.reshape(4, 6)):
        assert (sums_of(other) != sums_of(x)).any()


def test_what_changed_is_named():
    before = checksums.checksums({"a": array((2, 3)), "b": {"c": array((4,))}})
    after = checksums.checksums({"a": array((2, 3)), "b": {"c": array((4,)) + 1}})
    assert list(before) == ["a", "b.c"]
    assert before["a"].startswith("float32[2, 3] ")
    assert checksums.changed(after, before) == ["b.c"]
    assert checksums.changed(after, {}) == ["a", "b.c"]

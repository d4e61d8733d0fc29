import dataclasses

import gin
import numpy as np
import pytest

from salt_jax import gin_config
from salt_jax.data.preparing.prepare import prepare
from salt_jax.data.reading.loader import Loader
from salt_jax.data.reading.mixture import MixedOrder, PreparedMixture
from salt_jax.data.reading.objectives import PrefixLM
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning

SEQ_LEN = 16
WEIGHTS = (0.5, 0.3, 0.2)
UNEVEN = (3.0, 1.0, 1e-3, np.pi)


@pytest.fixture(scope="module")
def parts(preparation, tmp_path_factory):
    """A prepared set for each domain."""
    outputs = {}
    for domain in ("Github", "Jargon File", "KJV Bible"):
        output = str(tmp_path_factory.mktemp("part"))
        prepare(dataclasses.replace(preparation, output=output, domains=(domain,)))
        outputs[domain] = PreparedText(path=output, vocabulary=preparation.vocabulary)
    return tuple(outputs.values())


@pytest.fixture
def mixture(parts):
    return PreparedMixture(parts=parts, weights=WEIGHTS)


def open_rows(mixture, seed=5):
    return mixture.open_rows(seq_len=SEQ_LEN, seed=seed)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        found, expected = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(found, expected, err_msg=field.name)


@pytest.mark.parametrize("weights", [WEIGHTS, UNEVEN, (1.0,), (1e-4, 0.3, 0.7)])
@pytest.mark.parametrize("first", [0, 10**6])
def test_every_prefix_of_blocks_has_the_shares_up_to_one_row(weights, first):
    order = MixedOrder(weights, seed=2)
    size = order.block_size
    for block in range(first, first + 5):
        part, row = order.locate(np.arange(size) + block * size)
        counts = np.bincount(part, minlength=len(weights))
        assert counts.min() >= 1
        # The last rows of the parts say how many there were from the first block on.
        ends = [row[part == index].max() + 1 for index in range(len(weights))]
        assert sum(ends) == (block + 1) * size
        assert np.abs(np.array(ends) - (block + 1) * size * order.shares).max() < 1.0


@pytest.mark.parametrize("weights", [WEIGHTS, UNEVEN])
def test_each_row_of_a_part_is_read_once(weights):
    order = MixedOrder(weights, seed=0)
    part, row = order.locate(np.arange(7 * order.block_size))
    for index in range(len(weights)):
        rows = np.sort(row[part == index])
        np.testing.assert_array_equal(rows, np.arange(len(rows)))


def test_what_a_row_is_does_not_depend_on_what_is_asked_with_it():
    order = MixedOrder(UNEVEN, seed=0)
    numbers = np.random.default_rng(0).integers(0, 10**9, 300)
    alone = [order.locate(np.array([number])) for number in numbers]
    together = np.stack(order.locate(numbers))
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


def test_blocks_and_seeds_have_orders_of_their_own():
    order = MixedOrder(WEIGHTS, seed=0)
    blocks = [order.locate(np.arange(1000) + 1000 * block)[0] for block in (0, 1)]
    other = MixedOrder(WEIGHTS, seed=1).locate(np.arange(1000))[0]
    assert (blocks[0] != blocks[1]).mean() > 0.3
    assert (blocks[0] != other).mean() > 0.3


def test_the_shares_of_a_part_of_a_block_are_about_right():
    order = MixedOrder(WEIGHTS, seed=0)
    counts = np.bincount(order.locate(np.arange(250))[0])
    np.testing.assert_allclose(counts / 250, WEIGHTS, atol=0.1)


def test_rows_are_those_of_the_parts_in_the_order_of_their_numbers(mixture):
    rows = open_rows(mixture)
    numbers = np.array([7, 3, 900, 3, 2**40])
    batch = rows.read(numbers)
    part, row = rows.order.locate(numbers)
    for place in range(len(numbers)):
        own = rows.parts[part[place]].read(row[place : place + 1])
        np.testing.assert_array_equal(batch.targets_BL[place], own.targets_BL[0])
        np.testing.assert_array_equal(batch.segments_BL[place], own.segments_BL[0])


def test_parts_have_orders_of_their_own(mixture, parts):
    twice = PreparedMixture(parts=(parts[0], parts[0]), weights=(1, 1))
    one, other = (part.ids(np.arange(20)) for part in open_rows(twice).parts)
    assert not np.array_equal(one, other)
    again = open_rows(mixture, seed=6).parts[0].ids(np.arange(20))
    assert not np.array_equal(again, one)


def test_an_epoch_ends_where_the_first_part_repeats(mixture):
    rows = open_rows(mixture)
    lengths = [part.rows_per_epoch for part in rows.parts]
    part, row = rows.order.locate(np.arange(rows.rows_per_epoch * 2))
    repeats = row >= np.array(lengths)[part]
    first = int(np.argmax(repeats))
    assert repeats.any()
    # It is known up to the shuffling of a block.
    assert abs(first - rows.rows_per_epoch) < rows.order.block_size
    shares = np.array(WEIGHTS)
    assert rows.rows_per_epoch == int(np.min(np.array(lengths) / shares))


@pytest.mark.parametrize("num_hosts", [1, 2, 4, 8])
def test_a_batch_is_the_same_for_any_number_of_hosts(num_hosts, mixture):
    mesh = MeshShape(data=8).build()
    loader = Loader(
        mixture,
        batch_size=8,
        seq_len=SEQ_LEN,
        seed=0,
        partitioning=Partitioning(mesh=mesh),
    )
    size = 8 // num_hosts
    whole = loader.host_batch(12)
    for host in range(num_hosts):
        part = slice(host * size, (host + 1) * size)
        found = loader.host_batch(12, part).targets_BL
        np.testing.assert_array_equal(found, whole.targets_BL[part])
    assert_same(loader.device_batch(12), whole)


def test_with_a_prefix_in_one_part_the_others_have_an_empty_one(parts):
    prefixed = dataclasses.replace(parts[0], objective=PrefixLM())
    mixture = PreparedMixture(parts=(prefixed, parts[1]), weights=(1, 1))
    assert mixture.has_prefix
    rows = open_rows(mixture)
    batch = rows.read(np.arange(40))
    part, _ = rows.order.locate(np.arange(40))
    assert batch.prefix_BL.dtype == bool
    assert batch.prefix_BL[part == 0].any()
    assert not batch.prefix_BL[part == 1].any()


def test_without_a_prefix_in_any_part_there_is_none(mixture):
    assert not mixture.has_prefix
    assert open_rows(mixture).read(np.arange(4)).prefix_BL is None


@pytest.mark.parametrize("weights", [(1, 1), (), (1, 1, 1, 1)])
def test_a_mixture_has_as_many_weights_as_parts(weights, parts):
    with pytest.raises(ValueError, match=f"got 3 parts and {len(weights)} weights"):
        PreparedMixture(parts=parts, weights=weights)


def test_a_mixture_of_no_parts_is_refused():
    with pytest.raises(ValueError, match="got 0 parts and 0 weights"):
        PreparedMixture(parts=(), weights=())


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_that_are_not_positive_are_refused(weight, parts):
    with pytest.raises(ValueError, match=r"positive, got .*leave out a part"):
        PreparedMixture(parts=parts, weights=(1, weight, 1))


def test_parts_of_different_vocabularies_are_refused_with_both(parts, tmp_path):
    original = Vocabulary.open(parts[0].vocabulary)
    other = tmp_path / "other.model"
    other.write_bytes(original.path.read_bytes() + b"\xc2\x3e\x01x")
    changed = dataclasses.replace(parts[1], vocabulary=str(other))
    mixture = PreparedMixture(parts=(parts[0], changed), weights=(1, 1))
    with pytest.raises(
        ValueError, match=rf"{original.fingerprint[:12]}, .*other\.model"
    ):
        open_rows(mixture)


def test_the_same_vocabulary_may_be_in_two_places(parts, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes(Vocabulary.open(parts[0].vocabulary).path.read_bytes())
    moved = dataclasses.replace(parts[1], vocabulary=str(copy))
    mixture = PreparedMixture(parts=(parts[0], moved), weights=(1, 1))
    assert open_rows(mixture).read(np.arange(2)).tokens_BL.shape == (2, SEQ_LEN)


DOMAINS = """
from __gin__ import dynamic_registration
from salt_jax import config
from salt_jax.data.reading import mixture
from salt_jax.data.reading import prepared_text

standard/config.Stage.data = @mixture.PreparedMixture()

mixture.PreparedMixture:
  parts = (@books/prepared_text.PreparedText(), @code/prepared_text.PreparedText())
  weights = (0.7, 0.3)

books/prepared_text.PreparedText.path = '/data/books'
code/prepared_text.PreparedText.path = '/data/code'
"""


def test_gin_builds_a_mixture(tmp_path):
    file = tmp_path / "domains.gin"
    file.write_text(DOMAINS)
    try:
        data = gin_config.load(["gin/tiny_slm.gin", str(file)]).stages[0].data
    finally:
        gin.clear_config()
    vocabulary = "embedded:tokenizer/spm_4k.model"
    assert data == PreparedMixture(
        parts=(
            PreparedText(path="/data/books", vocabulary=vocabulary),
            PreparedText(path="/data/code", vocabulary=vocabulary),
        ),
        weights=(0.7, 0.3),
    )

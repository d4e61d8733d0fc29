"""A share of the campaigns on the files that salt_jax writes: see `launch/soak.sh`."""

import pytest

from tests.soak.corruption import KINDS, OUTCOMES, corrupt
from tests.soak.owned_files import PLAIN_JSON, owned_files
from tests.soak.readers import fuzz

NUM_READERS = 32


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return owned_files(tmp_path_factory.mktemp("owned"))


def test_every_kind_of_file_is_read(files):
    assert len({owned.name for owned in files}) == NUM_READERS


@pytest.mark.parametrize("index", range(NUM_READERS))
def test_a_reader_refuses_mutated_files_by_name_or_reads_them(index, files):
    found = fuzz(files[index], 200, seed=2)
    assert {*found} <= {"read", "refused"}, files[index].name


@pytest.mark.parametrize("index", range(NUM_READERS))
def test_no_damage_passes_in_silence_or_without_the_file_s_name(index, files):
    owned = files[index]
    if owned.kind == PLAIN_JSON:
        pytest.skip("a file of others has no checksum")
    strangers = [other.path.read_bytes() for other in files]
    found = corrupt(owned, 7, 2, strangers)
    assert not any(found[kind][bad] for kind in KINDS for bad in OUTCOMES[2:]), found

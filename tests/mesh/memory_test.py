import os

import jax
import pytest

from salt_jax.mesh.memory import GIB, available_per_device, check_fits


def test_what_fits_to_the_last_byte_is_let_through():
    check_fits({"parameters": 3, "teacher": 2}, 5)


def test_a_byte_too_much_is_refused():
    with pytest.raises(ValueError, match="GiB"):
        check_fits({"parameters": 3, "teacher": 3}, 5)


def test_a_refusal_says_what_is_needed_for_what_and_what_there_is():
    parts = {"parameters": 3 * GIB, "optimizer": 6 * GIB, "teacher": GIB // 2}
    listed = r"\(parameters 3\.0, optimizer 6\.0, teacher 0\.5\)"
    with pytest.raises(ValueError, match=rf"9\.5 GiB .*{listed}.* 8\.0 GiB"):
        check_fits(parts, 8 * GIB)


def test_simulated_devices_share_the_memory_of_the_host():
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    each = [available_per_device(device) for device in jax.devices()]
    assert len(set(each)) == 1
    assert host - 8 < sum(each) <= host

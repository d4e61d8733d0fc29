import dataclasses

import pytest

from salt_jax.files.bill import Bill, add_seconds, read_bill


def test_seconds_of_attempts_and_parts_add_up(tmp_path):
    add_seconds(tmp_path, "prepare", 2.0)
    add_seconds(tmp_path, "prepare", 3.0, rows=7, tokens=112)
    add_seconds(tmp_path, "select", 0.5, rows=7, tokens=112)
    bill = read_bill(tmp_path)
    assert bill.seconds == {"prepare": 5.0, "select": 0.5}
    assert (bill.rows, bill.tokens, bill.devices, bill.chip_seconds) == (7, 112, 0, 0)


def test_a_bill_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    assert read_bill(tmp_path) is None
    add_seconds(tmp_path, "prepare", 2.0)
    bill = dataclasses.replace(read_bill(tmp_path), flops={"student": 10**24})
    bill.write(tmp_path)
    assert read_bill(tmp_path) == bill and isinstance(bill, Bill)
    path = tmp_path / "bill.json"
    path.write_text(path.read_text().replace("2.0", "1.0"))
    with pytest.raises(ValueError, match=r"bill\.json is damaged"):
        read_bill(tmp_path)

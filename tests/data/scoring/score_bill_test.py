import json
import time

import pytest

from salt_jax.data.scoring.score_bill import BillWriter, read_bill
from salt_jax.files.records import write_record

PER_TOKEN, SEQ_LEN = 1000, 16


def open_bill(path, accelerators=4):
    return BillWriter(
        path,
        seq_len=SEQ_LEN,
        flops_per_token=PER_TOKEN,
        num_accelerators=accelerators,
    )


def write_records(path, name, spans, accelerators=1):
    """Writes a bill of a sequence for each span of time, (begin, end)."""
    about = {"shard": 0, "sequences": 1, "tokens": 16, "flops": 1.0}
    entries = [
        about | {"seconds": end - begin, "ended_at": end, "accelerators": accelerators}
        for begin, end in spans
    ]
    write_record(path / f"bill-{name}.json", {"entries": entries})


def test_what_was_read_is_billed_by_the_formula(tmp_path):
    with open_bill(tmp_path) as bill:
        for shard, count in (0, 30), (7, 12):
            bill.read(10)
            bill.read(count - 10)
            bill.write(shard)
    total = read_bill(tmp_path)
    assert (total.sequences, total.tokens) == (42, 42 * SEQ_LEN)
    assert total.flops == 42 * SEQ_LEN * PER_TOKEN


def test_bills_of_several_processes_and_of_runs_that_go_on_add_up(tmp_path):
    for count in (5, 6, 7):
        with open_bill(tmp_path) as bill:
            bill.read(count)
            bill.write(0)
    assert read_bill(tmp_path).sequences == 18
    assert len(list(tmp_path.iterdir())) == 3


def test_what_was_read_of_a_shard_that_another_wrote_is_billed_too(tmp_path):
    with open_bill(tmp_path) as bill:
        bill.read(5)
        bill.write(0)
        bill.read(3)
    assert read_bill(tmp_path).sequences == 8


def test_a_process_that_read_nothing_leaves_no_bill(tmp_path):
    with open_bill(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match=r"No bill-.* was it ever scored\?"):
        read_bill(tmp_path)


def test_seconds_are_those_since_the_record_before(tmp_path):
    with open_bill(tmp_path, accelerators=3) as bill:
        for shard in range(3):
            time.sleep(0.01)
            bill.read(1)
            bill.write(shard)
    (file,) = tmp_path.iterdir()
    records = json.loads(file.read_text())["entries"]
    assert all(record["seconds"] >= 0.01 for record in records)
    summed = sum(record["seconds"] for record in records)
    assert read_bill(tmp_path).accelerator_seconds == pytest.approx(3 * summed)


def test_seconds_in_which_several_processes_score_pass_once_on_the_wall(tmp_path):
    write_records(tmp_path, "a", [(0.0, 25.0)], accelerators=4)
    write_records(tmp_path, "b", [(5.0, 9.0), (9.0, 20.0)], accelerators=8)
    write_records(tmp_path, "resumed", [(100.0, 103.0)])
    total = read_bill(tmp_path)
    assert total.seconds == 25.0 + 3.0
    assert total.accelerator_seconds == 25.0 * 4 + 15.0 * 8 + 3.0


def test_a_damaged_bill_is_refused_by_name(tmp_path):
    (tmp_path / "bill-here.json").write_text('{"entries": [')
    with pytest.raises(ValueError, match=r"bill-here\.json cannot be read.*remove it"):
        read_bill(tmp_path)

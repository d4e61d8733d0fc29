import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from salt_jax.files.records import record_line
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.telemetry.metric_writer import METRICS_FILE, MetricWriter, read_metrics


def pair(values, weights):
    return WeightedMean.of(jnp.asarray(values, float), jnp.asarray(weights, float))


def written(workdir, *steps, from_step=0):
    writer = MetricWriter(workdir, from_step=from_step)
    for step in steps:
        writer.write(step, {"loss": pair([[float(step)]], [[1.0]])})
    writer.close()
    return workdir


def steps_in(workdir):
    return [record["step"] for record in read_metrics(workdir)]


def test_a_record_has_plain_values(tmp_path):
    writer = MetricWriter(tmp_path, from_step=0)
    mean = pair([[1.0, 4.0]], [[3.0, 1.0]])
    values = {"loss": mean, "norm": jnp.float32(0.5), "host": np.float32(2.0),
              "stage": "distill", "tokens": 128}  # fmt: skip
    writer.write(3, values)
    writer.close()
    assert read_metrics(tmp_path) == [
        {"step": 3, "loss": 1.75, "norm": 0.5, "host": 2.0, "stage": "distill",
         "tokens": 128}
    ]  # fmt: skip


def test_a_run_that_goes_on_drops_the_records_after_its_checkpoint(tmp_path):
    written(tmp_path, 1, 2, 3, 4)
    written(tmp_path, 3, 4, 5, from_step=2)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5]


def test_the_record_of_the_checkpoint_s_own_step_stays(tmp_path):
    written(tmp_path, 1, 2, 3)
    written(tmp_path, from_step=3)
    assert steps_in(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "{"])
def test_the_torn_last_line_of_a_killed_process_is_dropped(torn, tmp_path):
    written(tmp_path, 1)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(torn)
    assert steps_in(tmp_path) == [1]
    written(tmp_path, 3, from_step=2)
    assert steps_in(tmp_path) == [1, 3]


def test_a_last_record_that_lacks_its_newline_is_one(tmp_path):
    written(tmp_path, 1)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(record_line({"step": 2}).rstrip())
    assert steps_in(tmp_path) == [1, 2]
    written(tmp_path, 3, from_step=2)
    assert steps_in(tmp_path) == [1, 2, 3]


def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path):
    written(tmp_path, 1)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write("junk\n" + record_line({"step": 2}))
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 .*: remove this line"):
        read_metrics(tmp_path)


def test_every_flipped_bit_is_refused_by_its_line(tmp_path):
    written(tmp_path, 1, 2)
    path = tmp_path / METRICS_FILE
    whole, records = path.read_bytes(), read_metrics(tmp_path)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:  # Such as E for e in an exponent.
            assert read_metrics(tmp_path) == records
        except ValueError as error:
            assert f"{path}:" in str(error)


def test_a_number_that_is_not_finite_comes_back_as_nan(tmp_path):
    writer = MetricWriter(tmp_path, from_step=0)
    writer.write(1, {"grad_norm": float("inf"), "loss": 1.0})
    writer.close()
    (record,) = read_metrics(tmp_path)
    assert np.isnan(record["grad_norm"]) and record["loss"] == 1.0


def test_each_line_can_be_read_while_the_run_goes_on(tmp_path):
    writer = MetricWriter(tmp_path, from_step=0)
    writer.write(1, {"loss": 2.0})
    record = json.loads((tmp_path / METRICS_FILE).read_text())
    assert record.pop("checksum") and record == {"step": 1, "loss": 2.0}
    writer.close()


def test_a_run_without_metrics_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="was the run ever started"):
        read_metrics(tmp_path)


def events_in(workdir):
    """Yields the events of a TensorBoard file: length, check, event, check."""
    (path,) = (workdir / "events").iterdir()
    rest = path.read_bytes()
    while rest:
        assert int.from_bytes(rest[8:12], "little") == masked_crc32c(rest[:8])
        size = int.from_bytes(rest[:8], "little")
        yield Event.FromString(rest[12 : 12 + size])
        rest = rest[size + 16 :]


def test_a_folder_that_is_gone_is_a_warning_and_the_records_wait(tmp_path, caplog):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    workdir.mkdir()
    writer = MetricWriter(workdir, from_step=0)
    writer.write(1, {"loss": 1.0})
    workdir.rename(moved)
    workdir.touch()  # No folder can be made here.
    writer.write(2, {"loss": 2.0})
    workdir.unlink()
    moved.rename(workdir)
    writer.write(3, {"loss": 3.0})
    writer.close()
    assert steps_in(workdir) == [1, 2, 3]
    assert [e.step for e in events_in(workdir) if e.summary.value] == [1, 2, 3]
    assert sum("cannot be written since step 2" in x for x in caplog.messages) == 2


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path):
    written(tmp_path, 3, from_step=2)
    starts = [e.step for e in events_in(tmp_path) if e.HasField("session_log")]
    assert starts == [3]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    events = [e for e in events_in(written(tmp_path, 1, 2)) if e.summary.value]
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value)
             for e in events]  # fmt: skip
    assert found == [(1, "loss", 1.0), (2, "loss", 2.0)]

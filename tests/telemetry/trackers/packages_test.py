"""The real packages, offline: what they wrote is read back from their files."""

import json
import struct

import pytest
from etils import epath

from salt_jax.telemetry.metric_writer import MetricWriter
from salt_jax.telemetry.trackers.opening import open_trackers
from salt_jax.telemetry.trackers.tracker import TrackedRun
from salt_jax.train import train
from tests import runs

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytest.importorskip("wandb", reason="the extra wandb is not installed")
EXPERIMENT = {"batch_size": 8, "stages": [{"name": "distill", "end_step": 4}]}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two attempts, the second of which repeats step 2."""
    workdir = epath.Path(tmp_path_factory.mktemp("runs") / "mine")
    run = TrackedRun(workdir=workdir, experiment=EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for begin, end in ((0, 2), (1, 3)):
            trackers = open_trackers(["wandb", "mlflow"], run)
            writer = MetricWriter(workdir, from_step=begin, trackers=trackers)
            for step in range(begin + 1, end + 1):
                writer.write(step, {"stage": "a", "loss": 3.0 / step})
            writer.close()
    return workdir


def wandb_records(path):
    """Yields the records in a file of an offline run: a LevelDB log of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, begun = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        begun += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # Whole, or the last part.
            yield Record.FromString(begun)
            begun = b""


@pytest.mark.slow
def test_weights_and_biases_has_the_metrics_of_one_run(workdir):
    found, identities = [], set()
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                identities.add(record.run.run_id)
                config = {x.key: x.value_json for x in record.run.config.update}
            if record.WhichOneof("record_type") == "history":
                items = {x.nested_key[0]: x.value_json for x in record.history.item}
                found.append([json.loads(items[x]) for x in ("_step", "loss")])
    run = TrackedRun(workdir=workdir, experiment={})
    assert identities == {run.identity("wandb")}
    assert found == [[1, 3.0], [2, 1.5], [2, 1.5], [3, 1.0]]
    assert json.loads(config["batch_size"]) == 8


@pytest.mark.slow
def test_mlflow_has_the_metrics_of_one_run(workdir):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{workdir}/mlflow.db")
    (experiment,) = [x for x in client.search_experiments() if x.name == "salt_jax"]
    (run,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert {(x.step, x.value) for x in losses} == {(1, 3.0), (2, 1.5), (3, 1.0)}
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["stages.0.end_step"] == "4"
    kept = TrackedRun(workdir=workdir, experiment={})
    assert run.info.run_id == kept.identity("mlflow")


@pytest.mark.slow
def test_a_run_whose_tracker_does_not_answer_trains_on(tmp_path, monkeypatch, caplog):
    runs.make_files(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = runs.experiment(tmp_path, validation=None)
    state = train(run, tmp_path / "run", trackers=["wandb", "mlflow"])
    assert int(state.step) == runs.TOTAL_STEPS
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    kinds = [x.WhichOneof("record_type") for x in wandb_records(path)]
    assert kinds.count("history") == runs.TOTAL_STEPS
    (said,) = [x.getMessage() for x in caplog.records if "mlflow" in x.getMessage()]
    assert "goes on without it" in said

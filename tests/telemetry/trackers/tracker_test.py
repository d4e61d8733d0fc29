import threading

import pytest
from etils import epath

from salt_jax.commands import parser
from salt_jax.main import EXTRA_OF, main
from salt_jax.telemetry.metric_writer import MetricWriter, read_metrics
from salt_jax.telemetry.trackers import opening, tracker
from salt_jax.telemetry.trackers.opening import check_installed
from salt_jax.telemetry.trackers.tracker import InBackground, TrackedRun


class Service:
    """Keeps what it gets; fails at the steps in `bad`."""

    def __init__(self, bad=()):
        self.got, self.bad, self.is_closed = [], bad, False

    def log(self, step, values):
        if step in self.bad:
            raise ConnectionError("gone")
        self.got.append((step, values))

    def close(self):
        self.is_closed = True


def warnings(caplog):
    return [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]


def test_a_tracker_gets_the_numbers_of_every_record(tmp_path):
    service = Service()
    writer = MetricWriter(
        tmp_path, from_step=0, trackers=[InBackground("here", lambda: service)]
    )
    for step in (1, 2):
        writer.write(step, {"stage": "a", "loss": 2.0 * step, "tokens": 128})
    writer.close()
    expected = [(step, {"loss": 2.0 * step, "tokens": 128.0}) for step in (1, 2)]
    assert service.got == expected
    assert service.is_closed


def test_a_tracker_that_fails_warns_and_goes_on(caplog):
    service = Service(bad={2, 3})
    background = InBackground("there", lambda: service)
    for step in (1, 2, 3, 4):
        background.log(step, {"loss": 1.0})
    background.close()
    assert [step for step, _ in service.got] == [1, 4]
    (warning,) = warnings(caplog)
    assert "there" in warning and "step 2" in warning and "gone" in warning


def test_a_tracker_that_always_fails_is_left(tmp_path, caplog):
    service = Service(bad=range(100))
    background = InBackground("there", lambda: service)
    writer = MetricWriter(tmp_path, from_step=0, trackers=[background])
    for step in range(1, 31):
        writer.write(step, {"loss": 1.0})
    writer.close()
    assert service.is_closed
    assert len(read_metrics(tmp_path)) == 30
    assert ["10 times" in x for x in warnings(caplog)] == [False, True]


def test_a_tracker_that_cannot_begin_is_a_warning(caplog):
    def begin():
        raise PermissionError("who are you")

    background = InBackground("there", begin)
    background.log(1, {})
    background.close()
    (warning,) = warnings(caplog)
    assert "there" in warning and "who are you" in warning


def test_a_tracker_that_hangs_holds_up_nothing(monkeypatch, caplog):
    monkeypatch.setattr(tracker, "_CLOSING_SECONDS", 0.01)
    monkeypatch.setattr(tracker, "_MOST_WAITING", 3)
    answered = threading.Event()

    def begin():
        answered.wait()
        return Service()

    background = InBackground("there", begin)
    for step in range(1, 7):
        background.log(step, {})
    background.close()
    answered.set()
    slow, unsent = warnings(caplog)
    assert "from step 4 on" in slow and "everything" in unsent


def test_identities_are_kept_for_each_tracker(tmp_path):
    run = TrackedRun(workdir=epath.Path(tmp_path), experiment={})
    assert run.identity("wandb") is None
    run.keep_identity("wandb", "a")
    run.keep_identity("mlflow", "b")
    again = TrackedRun(workdir=epath.Path(tmp_path), experiment={})
    assert (again.identity("wandb"), again.identity("mlflow")) == ("a", "b")


def test_a_tracker_whose_package_is_missing_is_refused_with_its_extra(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(opening._PACKAGE_OF, "wandb", "package_of_nobody")
    monkeypatch.setitem(EXTRA_OF, "package_of_nobody", "wandb")
    assert main(["train", "--gin_file=gin/tiny_slm.gin", "--tracker=wandb"]) == 2
    assert ".[wandb]" in capsys.readouterr().err
    # What offline runs leave in the working directory is no package.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package_of_nobody").mkdir()
    with pytest.raises(ModuleNotFoundError):
        check_installed(["wandb"])


def test_trackers_are_named_by_their_flag():
    _, options = parser.parse(
        ["train", "--gin_file=x", "--tracker=wandb", "--tracker=mlflow"]
    )
    assert options.tracker == ("wandb", "mlflow")
    assert {*options.tracker} == {*opening.NAMES}
    with pytest.raises(ValueError, match="--tracker.*neptune"):
        parser.parse(["train", "--gin_file=x", "--tracker=neptune"])

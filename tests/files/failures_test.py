import errno

import pytest

from salt_jax.files import failures
from salt_jax.files.failures import MachineError, failure_of, raise_if_machine, retried


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), failures.STORAGE),
        (OSError(errno.ESTALE, "Stale file handle"), failures.STORAGE),
        (OSError(errno.EMFILE, "Too many open files"), failures.OPEN_FILES),
        (PermissionError(errno.EACCES, "Permission denied"), failures.NO_ACCESS),
        (OSError(errno.ENOSPC, "No space left on device"), failures.FULL),
        (TimeoutError("timed out"), failures.BUSY),
        (MemoryError(), failures.MEMORY),
        (
            ValueError('Error reading "a": [OS error 24: EMFILE Too many open files]'),
            failures.OPEN_FILES,
        ),
        (ValueError("Error: [OS error 23: ENFILE full]"), failures.OPEN_FILES),
        (ValueError("[OS error 116: ESTALE stale]"), failures.STORAGE),
        (ValueError("UNAVAILABLE: Error reading x"), failures.BUSY),
        (ValueError("Error opening: DEADLINE_EXCEEDED: slow"), failures.BUSY),
        (ValueError("PERMISSION_DENIED: Error opening x"), failures.NO_ACCESS),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), failures.MEMORY),
        (RuntimeError("FAILED_PRECONDITION: Gloo AllGather failed"), failures.PEERS),
    ],
)
def test_a_failure_of_the_machine_is_known_under_every_type(error, kind):
    assert failure_of(error) is kind
    assert failure_of(_wrapped(error)) is kind


def _wrapped(error):
    try:
        raise RuntimeError("Something failed.") from error
    except RuntimeError as outer:
        return ExceptionGroup("several", [outer])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Error decoding manifest: CRC-32C checksum verification failed"),
        ValueError("NOT_FOUND: chunk 0 is missing"),
        ValueError("the name of an array is UNAVAILABLE"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        KeyError("x"),
    ],
)
def test_damage_is_no_failure_of_the_machine(error):
    assert failure_of(error) is None
    raise_if_machine(error, "Reading x")


class Flaky:
    """Fails with each of `errors` in turn, then returns 7."""

    def __init__(self, *errors):
        self.errors, self.slept = list(errors), []

    def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def retried(self):
        return retried(self, "Reading x", delays=(1, 5), sleep=self.slept.append)


def test_what_may_pass_is_tried_again_after_growing_delays():
    flaky = Flaky(OSError(errno.EIO, "bad"), ValueError("UNAVAILABLE: away"))
    assert (flaky.retried(), flaky.slept) == (7, [1, 5])


def test_what_does_not_pass_says_what_to_do_and_not_to_delete():
    flaky = Flaky(*[OSError(errno.EMFILE, "many")] * 3)
    with pytest.raises(MachineError, match="Reading x failed.*ulimit -n") as caught:
        flaky.retried()
    assert "emove" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(PermissionError(errno.EACCES, "no"), MachineError), (KeyError("x"), KeyError)],
)
def test_what_cannot_pass_is_raised_at_once(error, kind):
    flaky = Flaky(error)
    with pytest.raises(kind):
        flaky.retried()
    assert flaky.slept == []

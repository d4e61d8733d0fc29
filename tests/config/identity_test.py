import dataclasses

import pytest

from salt_jax.config import Experiment
from salt_jax.config.identity import OPERATIONAL_FIELDS, fingerprint
from tests import runs

RUN = runs.experiment("nowhere")


@dataclasses.dataclass(frozen=True)
class Inner:
    attention: str  # Left out, wherever it is.
    layers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Small:
    """What a fingerprint is made of, without the fields that experiments gain."""

    model: Inner
    measures: bool = False
    log_every: int = 3
    validation: str | None = "held out"


def test_a_fingerprint_is_the_same_in_every_version():
    # A run goes on after an upgrade: these digests are in checkpoints.
    small = Small(Inner("xla", (1, 2)))
    assert fingerprint(small) == "32510a07c4f3c58a"
    assert fingerprint(dataclasses.replace(small, measures=True)) == "6f1aed5b7611a425"


OTHER = {
    "keep_steps": (1,),
    "log_every": 9,
    "max_to_keep": 9,
    "save_every": 9,
    "save_every_minutes": 9.0,
    "validation": None,
    "watch": None,
}


@pytest.mark.parametrize("name", OTHER)
def test_a_fingerprint_ignores_how_a_run_is_done(name):
    other = dataclasses.replace(RUN, **{name: OTHER[name]})
    assert name in OPERATIONAL_FIELDS and other != RUN
    assert fingerprint(other) == fingerprint(RUN)


@pytest.mark.parametrize("change", [{"seed": 7}, {"batch_size": 16}])
def test_a_fingerprint_notices_what_is_computed(change):
    assert fingerprint(dataclasses.replace(RUN, **change)) != fingerprint(RUN)


def test_operational_fields_are_fields_of_an_experiment():
    assert {*OPERATIONAL_FIELDS} <= {x.name for x in dataclasses.fields(Experiment)}

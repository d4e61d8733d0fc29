import copy
import dataclasses
import typing
from collections.abc import Sequence

import gin
import pytest

from salt_jax import gin_config
from salt_jax.gin_reading import field_types

ROOTS = ["tiny_salt_ds", "tiny_ul2", "tiny_score", "tiny_prepare", "sft_factbook"]


@pytest.fixture(autouse=True)
def _clear_gin():
    yield
    gin.clear_config()


def load(name, *overrides):
    return gin_config.load([f"gin/{name}.gin"], overrides)


def dataclasses_in(value):
    """Yields all dataclasses in a value, itself first."""
    if isinstance(value, tuple):
        for item in value:
            yield from dataclasses_in(item)
    elif dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from dataclasses_in(getattr(value, field.name))


@pytest.mark.parametrize("name", ROOTS)
def test_every_count_that_is_no_integer_is_refused_by_its_field(name):
    root = load(name)
    checked = []
    for value in dataclasses_in(root):
        declared = typing.get_type_hints(type(value))
        for field, kind in declared.items():
            if kind not in (int, int | None, Sequence[int]):
                continue
            for wrong in (2.0, "2", True):
                broken = copy.copy(value)
                object.__setattr__(broken, field, wrong)
                where = f"{type(value).__name__}.{field} must be an integer"
                with pytest.raises(ValueError, match=where):
                    field_types.check(broken)
            checked.append(field)
    assert "seq_len" in checked


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "TOTAL_STEPS = 1e3",
            r"Stage.end_step must be an integer, got 1000.0: .* 1000",
        ),
        ("SEED = 1.5", r"Experiment.seed must be an integer, got 1.5\.$"),
        ("config.Experiment.keep_steps = (1, 2.0)", r"keep_steps .* got 2.0"),
        (
            "config.Validation.every = True",
            "Validation.every must be an integer, got True",
        ),
        ("optimizer.AdamW.eps = True", "AdamW.eps must be a number, got True"),
    ],
)
def test_a_number_of_the_wrong_kind_is_refused_before_anything_is_done(
    override, message
):
    with pytest.raises(ValueError, match=message):
        load("tiny_slm", override)


def test_a_whole_number_is_a_number():
    assert load("tiny_slm", "optimizer.AdamW.weight_decay = 0").optimizer

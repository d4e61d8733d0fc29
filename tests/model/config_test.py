"""The parts of a decoder as configured: refusals, JSON and gin."""

import dataclasses
import json

import pytest

from salt_jax import gin_config
from salt_jax.model.config import RopeScaling, TransformerConfig
from tests.examples import SMALL
from tests.model.all_parts import ALL_PARTS, LLAMA3

FULL = dataclasses.replace(SMALL, **ALL_PARTS)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        FULL,
        dataclasses.replace(SMALL, rope_scaling=RopeScaling(kind="linear", factor=2)),
    ],
)
def test_a_config_comes_back_from_the_json_of_an_export(config):
    text = json.dumps(dataclasses.asdict(config))
    found = TransformerConfig(**json.loads(text))
    assert found == config
    assert hash(found) == hash(config)
    assert found.differences(config) == []


def test_a_config_written_before_these_parts_is_one_without_them():
    fields = dataclasses.asdict(SMALL)
    old = {name: value for name, value in fields.items() if name not in ALL_PARTS}
    changed = {"activation", "logit_softcap", "rope_theta"} - set(old)
    assert TransformerConfig(**old, **{name: fields[name] for name in changed}) == SMALL


def test_how_a_model_was_initialized_makes_no_other_function():
    drawn = dataclasses.replace(SMALL, init_scale=1.137, init_outputs_by_depth=True)
    assert SMALL.differences(drawn) == []


@pytest.mark.parametrize("name", sorted(ALL_PARTS))
def test_a_part_makes_another_function_of_the_parameters(name):
    changes = {name: ALL_PARTS[name]}
    if name in ("sliding_window", "global_every", "local_rope_theta"):
        changes = {"sliding_window": 4, "global_every": 2} | changes
    assert name in SMALL.differences(dataclasses.replace(SMALL, **changes))


def test_gin_reads_how_positions_are_scaled():
    fields = [
        "slm_tiny/model.TransformerConfig.rope_scaling = @model.RopeScaling()",
        *(
            f"model.RopeScaling.{name} = {value!r}"
            for name, value in dataclasses.asdict(LLAMA3).items()
        ),
    ]
    experiment = gin_config.load(["gin/tiny_slm.gin"], fields)
    assert experiment.model.rope_scaling == LLAMA3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attention_softcap": 0.0}, "attention_softcap .*got 0.0"),
        ({"query_scale": -1.0}, "query_scale .*got -1.0"),
        ({"sliding_window": 8}, "sliding_window=8 .*global_every=1"),
        ({"sliding_window": 0, "global_every": 2}, "sliding_window=0 "),
        ({"global_every": 0}, "global_every .*got 0"),
        ({"global_every": 6}, "global_every=6 .*sliding_window"),
        ({"local_rope_theta": 1e4}, "local_rope_theta=10000.0 .*sliding_window"),
    ],
)
def test_an_impossible_part_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "yarn"}, "RopeScaling.kind='yarn'.* linear, llama3"),
        ({"factor": 0}, "RopeScaling.factor .*got 0"),
        ({"kind": "linear"}, "'linear' .*factor"),
        ({"low_freq_factor": None}, "'llama3' needs 0 < low_freq_factor < high"),
        ({"low_freq_factor": 5.0}, "'llama3' needs 0 < low_freq_factor < high"),
        ({"original_max_len": None}, "'llama3' needs .* and an original_max_len"),
    ],
)
def test_an_impossible_scaling_of_positions_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LLAMA3, **change)


@pytest.mark.parametrize(
    "name, value",
    [("num_layers", 10**8), ("vocab_size", 10**12), ("embed_dim", 1 << 31)],
)
def test_a_size_that_no_memory_holds_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value:,} is more than"):
        dataclasses.replace(SMALL, **{name: value})

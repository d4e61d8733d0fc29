import dataclasses
import re

import pytest

from salt_jax.config import Scoring
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.cudnn_calls import check_countable
from salt_jax.score import score
from salt_jax.training.program import Program
from tests import runs
from tests.examples import SMALL, OnPlatform, on_platform, partitioning

SPLASH = dataclasses.replace(SMALL, attention="splash")
LENGTH = 256
WINDOW = {"sliding_window": 9, "global_every": 2}


@pytest.mark.parametrize(
    "platform, name", [("tpu", "splash"), ("gpu", "cudnn"), ("cpu", "xla")]
)
def test_attention_is_the_fastest_of_the_platform(platform, name):
    mesh = on_platform(platform, partitioning())
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    assert AttentionChoice.of(config, mesh, LENGTH).name == name


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
@pytest.mark.parametrize("name", ["reference", "xla"])
def test_a_named_kernel_of_any_device_is_obeyed_where_there_are_faster_ones(
    platform, name
):
    mesh = on_platform(platform, partitioning())
    config = dataclasses.replace(SMALL, attention=name)
    assert AttentionChoice.of(config, mesh, LENGTH).name == name


@pytest.mark.parametrize(
    "platform, name, changes, length, message",
    [
        ("cpu", "splash", {}, LENGTH, "tpu.*cpu"),
        ("cpu", "cudnn", {}, LENGTH, "gpu.*cpu"),
        ("tpu", "cudnn", {}, LENGTH, "gpu.*tpu"),
        ("tpu", "splash", {}, 200, "200.*128"),
        ("tpu", "splash", {"num_heads": 6, "num_kv_heads": 3}, LENGTH, "heads=6.*2 sh"),
        ("gpu", "cudnn", {}, LENGTH, "bfloat16.*'float32'"),
        ("gpu", "cudnn", {"head_dim": 12}, LENGTH, "head_dim=12"),
        ("gpu", "cudnn", {"head_dim": 256}, LENGTH, "head_dim=256.*128"),
        (
            "gpu",
            "cudnn",
            {"attention_softcap": 50.0},
            LENGTH,
            "attention_softcap.*50.0",
        ),
        ("tpu", "splash", WINDOW, 1 << 17, "sliding_window.*131072.*65536"),
        ("gpu", "cudnn", {"head_dim": 16}, 33, "length 33 is odd"),
    ],
)
def test_a_named_attention_that_cannot_be_used_is_refused(
    platform, name, changes, length, message
):
    mesh = on_platform(platform, partitioning(8, model=2))
    dtype = "bfloat16" if "head_dim" in changes else "float32"
    config = dataclasses.replace(SMALL, attention=name, dtype=dtype, **changes)
    with pytest.raises(ValueError, match=f"attention='{name}'.*{message}"):
        AttentionChoice.of(config, mesh, length)


@pytest.mark.parametrize(
    "platform, name, changes",
    [
        ("tpu", "splash", {"attention_softcap": 50.0, "query_scale": 0.1}),
        ("gpu", "cudnn", WINDOW | {"query_scale": 0.1}),
        ("tpu", "splash", WINDOW),
        ("gpu", "xla", {"attention_softcap": 50.0}),
    ],
)
def test_a_kernel_computes_the_parts_that_it_has(platform, name, changes):
    mesh = on_platform(platform, partitioning())
    config = dataclasses.replace(SMALL, dtype="bfloat16", **changes)
    assert AttentionChoice.of(config, mesh, LENGTH).name == name


def test_attention_that_is_not_named_falls_back_and_says_why(caplog):
    choice = AttentionChoice.of(SMALL, on_platform("tpu", partitioning()), 200)
    with caplog.at_level("INFO"):
        choice.log("student")
    assert choice.name == "xla"
    assert re.search("student: 'xla'.*'splash'.*200", caplog.text)


def test_an_unknown_attention_is_refused():
    with pytest.raises(
        ValueError, match="'flash'.*auto, reference, xla, splash, cudnn"
    ):
        dataclasses.replace(SMALL, attention="flash")


def test_a_checkpoint_may_be_read_with_another_attention():
    assert SMALL.differences(SPLASH) == []


def test_a_program_that_its_devices_cannot_run_is_refused(tmp_path):
    model = dataclasses.replace(runs.STUDENT, attention="splash")
    with pytest.raises(ValueError, match="splash.*tpu"):
        Program.on(runs.experiment(tmp_path, model=model))


def test_a_teacher_that_the_devices_cannot_run_is_refused(tmp_path):
    experiment = runs.experiment(tmp_path)
    stage = experiment.stages[0]
    teacher = dataclasses.replace(stage.distillation.teacher, attention="splash")
    distillation = dataclasses.replace(stage.distillation, teacher=teacher)
    stage = dataclasses.replace(stage, distillation=distillation)
    with pytest.raises(ValueError, match="splash.*tpu"):
        Program.on(runs.experiment(tmp_path, stages=(stage,)))


def test_a_scorer_that_the_devices_cannot_run_is_refused_before_anything_is_read():
    nothing = PreparedText(path="none", vocabulary="none")
    scoring = Scoring(
        scorer=SPLASH, scorer_export="none", data=nothing, seq_len=LENGTH, output="none"
    )
    with pytest.raises(ValueError, match="splash.*tpu"):
        score(scoring)


@pytest.mark.parametrize(
    "capability, name", [("7.5", "xla"), ("8.0", "cudnn_bias"), ("10.0", "cudnn")]
)
def test_cudnn_reads_packed_documents_from_hopper_on(capability, name, monkeypatch):
    monkeypatch.setattr(OnPlatform, "compute_capability", capability)
    mesh = on_platform("gpu", partitioning())
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    choice = AttentionChoice.of(config, mesh, LENGTH)
    assert choice.name == name
    assert name == "cudnn" or re.search(f"9.0.*have {capability}", choice.obstacle)


def test_a_window_in_a_prefix_is_not_for_cudnn():
    mesh = on_platform("gpu", partitioning())
    config = dataclasses.replace(SMALL, dtype="bfloat16", **WINDOW)
    assert AttentionChoice.of(config, mesh, LENGTH).name == "cudnn"
    choice = AttentionChoice.of(config, mesh, LENGTH, has_prefix=True)
    assert choice.name == "cudnn_bias"
    assert re.search("sliding_window in a .*prefix, got 9", choice.obstacle)


def test_queries_that_cudnn_cannot_count_are_refused():
    mesh = on_platform("gpu", partitioning(8, model=2))
    config = dataclasses.replace(SMALL, num_heads=16, head_dim=128)
    check_countable(config, mesh, 2**21 - 1)  # 8 heads on a device.
    with pytest.raises(ValueError, match="2,097,152 tokens x 8 heads x 128.*microbatc"):
        check_countable(config, mesh, 2**21)

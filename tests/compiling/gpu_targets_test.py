import dataclasses
import re

import pytest

from salt_jax.compiling import gpu_targets, table
from salt_jax.compiling.compile import compile_run
from salt_jax.compiling.gpu_targets import GPUS, open_gpus
from salt_jax.compiling.topology import open_topology
from salt_jax.mesh.chips import chip_of
from salt_jax.mesh.memory import GIB
from tests import runs

needs_cuda = pytest.mark.skipif(
    not gpu_targets.has_compiler(),
    reason="compiling for GPUs needs the extra cuda, which dev does not have",
)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_is_described_to_xla_as_its_chip_is(name):
    target = GPUS[name]
    chip = chip_of(target.kind)
    # JAX leaves a quarter of the memory alone; the driver takes up to 2 % of it.
    assert 0.735 < chip.usable_gib * GIB / target.memory_bytes < 0.751
    assert target.memory_bytes_per_second == pytest.approx(
        chip.memory_bytes_per_second, rel=0.005
    )
    text = target.text()
    assert text.count("{") == text.count("}") == 4
    major, minor = target.compute_capability
    assert f"cuda_compute_capability {{ major: {major} minor: {minor} }}" in text
    assert f'device_description_str: "{target.kind}"' in text
    fields = dict(re.findall(r"^  (\w+): ([\d.]+)$", text, re.MULTILINE))
    assert float(fields["device_memory_size"]) == target.memory_bytes
    assert int(fields["core_count"]) == target.cores


@pytest.mark.parametrize(
    "name, said",
    [
        ("h100:16", "16 GPUs per host, which has at most 8: write h100:8xHOSTS"),
        ("h100", "--topology=h100 is not h100:GPUS or h100:GPUSxHOSTS"),
        ("b200:8x", "--topology=b200:8x is not b200:GPUS"),
        ("b200:8x0", "--topology=b200:8x0 is not b200:GPUS"),
        ("a100:8x4x2", "--topology=a100:8x4x2 is not a100:GPUS"),
    ],
)
def test_gpus_that_cannot_be_are_refused(name, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        open_gpus(name)


def test_without_the_compiler_the_refusal_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(gpu_targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"h100:8 .* pip install -e '.\[cuda\]'"):
        open_gpus("h100:8")


def test_hosts_are_in_the_name_of_gpus_and_not_slices():
    with pytest.raises(ValueError, match="h100:8.*--num_slices=2"):
        open_topology("h100:8", 2)


@needs_cuda
def test_the_gpus_of_a_host_come_one_after_another():
    topology = open_topology("h200:4x2")
    assert [device.process_index for device in topology.devices] == [0] * 4 + [1] * 4
    assert len(topology.one_host) == 4
    assert str(topology).startswith("h200:4x2, 2 hosts of 4 NVIDIA H200 GPUs, 104.25")


@needs_cuda
@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_a_small_run_compiles_for_gpus_with_attention_by_cudnn():
    student, teacher = (
        dataclasses.replace(model, dtype="bfloat16")
        for model in (runs.STUDENT, runs.TEACHER)
    )
    run = runs.experiment("nowhere", model=student, seq_len=48, batch_size=16)
    stage, *others = run.stages
    distillation = dataclasses.replace(stage.distillation, teacher=teacher)
    stage = dataclasses.replace(stage, distillation=distillation)
    run = dataclasses.replace(run, stages=(stage, *others))
    report = compile_run(run, open_topology("h100:4x2"), [stage.name, "evaluation"])
    assert report.fits
    assert [one.attention for one in report.inspected] == [["cudnn"], ["cudnn"]]
    step = report.inspected[0]
    text = step.compiled.as_text()
    assert "__cudnn$fmhaSoftmaxBackward" in text
    assert not re.search(r"\[[\d,]*\b48,48\]", text)  # The scores.
    kinds = {(moved.kind, moved.across_slices) for moved in step.collectives}
    assert {("all-gather", True), ("reduce-scatter", True)} <= kinds
    assert re.search(r"attention +cudnn +cudnn", table.render(report))

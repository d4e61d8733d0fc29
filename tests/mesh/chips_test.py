import importlib.util
import os
import subprocess
import sys

import pytest

from salt_jax.mesh.chips import CHIPS, chip_of


def test_a_cpu_has_no_published_peak():
    assert chip_of("cpu") is None


@pytest.mark.parametrize(
    "kind, name",
    [("TPU v5 lite", "TPU v5e"), ("NVIDIA H100 80GB HBM3", "NVIDIA H100")],
)
def test_a_chip_is_found_by_the_name_that_jax_gives_its_kind(kind, name):
    assert chip_of(kind).name == name


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_figures_are_of_one_device_in_units_not_in_thousands_of_them(chip):
    # What tells a rate in TFLOP/s or a bandwidth in GB/s from one in units.
    assert 1e14 < chip.flops_per_second < 1e16
    assert 5e11 < chip.memory_bytes_per_second < 1e13
    # In GiB, and not in bytes or in GB.
    assert 10 < chip.usable_gib < 200
    if chip.link_bytes_per_second is not None:
        assert 1e11 < chip.link_bytes_per_second < chip.memory_bytes_per_second / 2
    if chip.network_bytes_per_second is not None:
        assert 1e9 < chip.network_bytes_per_second < chip.link_bytes_per_second / 8
    if chip.flops_per_cycle is not None:
        assert 1e9 < chip.flops_per_second / chip.flops_per_cycle < 2e9  # The clock.


TOO_LARGE = r"""
import re, sys
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

for name, options in (
    ("v5e:2x2", {}),
    ("v4:2x2x1", {"chip_config_name": "megacore"}),
    ("v5p:2x2x1", {}),
    ("v6e:2x2", {}),
):
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=name, num_slices=1, **options
    )
    device = topology.devices[0]
    sharding = NamedSharding(Mesh([device], ("one",)), PartitionSpec())
    array = jax.ShapeDtypeStruct((2**18, 2**18), np.float32, sharding=sharding)
    try:
        jax.jit(lambda x: x @ x @ x).lower(array).compile()
    except jax.errors.JaxRuntimeError as error:
        available = re.search(r"exceeds available HBM .([\d.]+)G.", str(error))[1]
        print(f"{device.device_kind}={available}")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler"
)
def test_a_program_may_use_of_a_tpu_what_its_compiler_says():
    # The compiler asks for the TPU_ ones, but not what is in them.
    stand_ins = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-256",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE],
        capture_output=True,
        text=True,
        env=os.environ | stand_ins,
    )
    said = dict(line.split("=") for line in done.stdout.splitlines())
    assert {kind: float(gib) for kind, gib in said.items()} == {
        kind: chip.usable_gib for kind, chip in CHIPS.items() if "TPU" in kind
    }, done.stderr

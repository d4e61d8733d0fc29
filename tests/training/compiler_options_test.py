import importlib.util

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from salt_jax.compiling.gpu_targets import WITHOUT_A_GPU, has_compiler
from salt_jax.compiling.topology import open_topology, prepare_process
from salt_jax.training.compiler_options import compiler_options


def on(devices):
    return compiler_options(Mesh(np.array(devices), ("one",)))


def test_cpus_have_no_options():
    assert on(jax.devices()) is None


@pytest.mark.skipif(
    not has_compiler(), reason="compiling for GPUs needs the extra cuda"
)
@pytest.mark.usefixtures("without_cache")
def test_the_compiler_knows_the_options_of_gpus():
    (gpu,) = open_topology("h100:1").devices
    options = on([gpu])
    x = jax.ShapeDtypeStruct(
        (256, 256), np.float32, sharding=jax.sharding.SingleDeviceSharding(gpu)
    )
    lowered = jax.jit(lambda x: x @ x, compiler_options=options).lower(x)
    assert lowered.compile(dict(WITHOUT_A_GPU)).as_text()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
@pytest.mark.usefixtures("without_cache")
def test_the_compiler_knows_the_options_of_a_tpu_and_makes_larger_tiles():
    prepare_process("v5e:1x1")
    (device,) = open_topology("v5e:1x1").devices
    options = on([device])
    sharding = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((2048, 2048), np.float32, sharding=sharding)
    lowered = jax.jit(lambda x: x @ x, compiler_options=options).lower(x)
    assert lowered.compile().as_text()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x @ x, compiler_options={"no_such": 1}).lower(x).compile()

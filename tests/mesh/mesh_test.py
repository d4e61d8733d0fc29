"""The same update on every mesh, however the batch, the length and the head are split.

Plain gradient descent: an update is as far from another as their gradients are.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.optim.schedules import Constant
from salt_jax.training.train_step import TrainState, Update
from tests.examples import SMALL, on_mesh, packed_batch

ONE = MeshShape(data=1)
DATA8 = MeshShape(data=8)
DATA4_MODEL2 = MeshShape(data=4, model=2)
DATA2_MODEL4 = MeshShape(data=2, model=4)
REPLICA2 = MeshShape(replica=2, data=2, model=2)

TENSOR_PARALLEL = AxisRules()
FSDP = AxisRules(batch=("replica", "data", "model"))
SEQUENCE_PARALLEL = AxisRules(length="model")
WIDTH_STORED = AxisRules(vocab="model", vocab_embed="data")
FSDP_WIDTH_STORED = dataclasses.replace(FSDP, vocab="model", vocab_embed="data")
FSDP_WHOLE_HEAD = dataclasses.replace(FSDP, act_vocab=None)
COPIED = AxisRules(
    vocab=None, embed=None, heads=None, mlp=None, act_vocab=None, batch=("data",)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    shape: MeshShape
    rules: AxisRules = TENSOR_PARALLEL
    teacher_rules: AxisRules | None = None  # By default those of the student.
    num_microbatches: int = 1
    changes: tuple[tuple[str, object], ...] = ()  # Of the student's shape.


# Each mesh, each rule and each count of microbatches, and most of their pairs.
CASES = {
    "data8": Case(shape=DATA8, num_microbatches=2),
    "data4_model2": Case(shape=DATA4_MODEL2, num_microbatches=2),
    "data4_model2_fsdp": Case(
        shape=DATA4_MODEL2, rules=FSDP, teacher_rules=TENSOR_PARALLEL
    ),
    "data2_model4_fsdp": Case(shape=DATA2_MODEL4, rules=FSDP, num_microbatches=2),
    "data2_model4_sequence": Case(shape=DATA2_MODEL4, rules=SEQUENCE_PARALLEL),
    "replica2": Case(shape=REPLICA2),
    "replica2_fsdp": Case(shape=REPLICA2, rules=FSDP, num_microbatches=2),
    "replica2_sequence": Case(
        shape=REPLICA2, rules=SEQUENCE_PARALLEL, num_microbatches=2
    ),
}
OTHER_CASES = {
    "data8_fsdp": Case(shape=DATA8, rules=FSDP),
    "data4_model2_sequence": Case(
        shape=DATA4_MODEL2, rules=SEQUENCE_PARALLEL, num_microbatches=2
    ),
    "data4_model2_width_stored": Case(
        shape=DATA4_MODEL2, rules=WIDTH_STORED, teacher_rules=FSDP
    ),
    "data4_model2_fsdp_width_stored": Case(shape=DATA4_MODEL2, rules=FSDP_WIDTH_STORED),
    "data2_model4": Case(shape=DATA2_MODEL4),
    "data2_model4_whole_head": Case(shape=DATA2_MODEL4, rules=FSDP_WHOLE_HEAD),
    "data2_model4_copied": Case(shape=DATA2_MODEL4, rules=COPIED),
    "replica2_microbatches": Case(
        shape=REPLICA2, teacher_rules=FSDP, num_microbatches=2
    ),
    "replica2_fsdp_once": Case(
        shape=REPLICA2, rules=FSDP, teacher_rules=SEQUENCE_PARALLEL
    ),
    "replica2_whole_head": Case(shape=REPLICA2, rules=FSDP_WHOLE_HEAD),
    "replica2_remat": Case(shape=REPLICA2, rules=FSDP, changes=(("remat", "full"),)),
    "replica2_untied": Case(
        shape=REPLICA2, rules=FSDP, changes=(("tied_embedding", False),)
    ),
    "replica2_unrolled": Case(
        shape=REPLICA2, rules=SEQUENCE_PARALLEL, changes=(("scan_layers", False),)
    ),
}


def batch():
    """Rows of unequal weight, one of none: what tells a mean of means."""
    batch = packed_batch(rows=16)
    weights_BL = batch.weights_BL.at[0, 1:].set(0.0).at[5].set(0.0)
    return batch.replace(weights_BL=weights_BL.at[9].multiply(0.5))


def made(model, key):
    """Parameters from the same numbers on every mesh, on the shards of this one."""
    init = lambda key: init_params(model, key)
    abstract = model.partitioning.abstract(init, key)
    # By NumPy: a compiled initializer for each mesh would take longer than the step.
    rng = np.random.default_rng(0)

    def value(path, x):
        noise = rng.normal(size=x.shape)
        is_scale = path[-1].key == "scale"
        value = 1.0 + 0.1 * noise if is_scale else noise * SMALL.embed_dim**-0.5
        return jax.device_put(value.astype(x.dtype), x.sharding)

    return jax.tree.map_with_path(value, abstract)


def two_steps(case):
    """The state after two updates, and the metrics of both, as they are on `case`."""
    count = np.prod(dataclasses.astuple(case.shape))
    mesh = case.shape.build(jax.devices()[:count])
    on = lambda rules: Partitioning(mesh=mesh, rules=rules)
    student_shape = dataclasses.replace(SMALL, **dict(case.changes))
    teacher_shape = dataclasses.replace(SMALL, num_layers=1, embed_dim=16)
    student = Transformer(student_shape, on(case.rules))
    teacher = Transformer(teacher_shape, on(case.teacher_rules or case.rules))
    optimizer = optax.sgd(1.0)
    update = Update(
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        kd_weight=Constant(value=0.4),
        temperature=0.5,
        chunk_tokens=12,
        num_microbatches=case.num_microbatches,
    )
    params = made(student, jax.random.key(0))
    step = jax.device_put(jnp.zeros((), jnp.int32), student.partitioning.sharding())
    state = TrainState(step, params, optimizer.init(params))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    compiled = jax.jit(update, out_shardings=(shardings, None))
    arguments = made(teacher, jax.random.key(1)), on_mesh(batch(), student.partitioning)
    state, first = compiled(state, *arguments)
    state, second = compiled(state, *arguments)
    return jax.device_get((state, first, second))


@pytest.fixture(scope="module")
def on_one_device():
    """What `two_steps` gives on one device, by the shape of the student."""
    known = {}

    def of(changes):
        # Layers are initialized in another order where they are not stacked.
        if changes not in known:
            known[changes] = two_steps(Case(shape=ONE, changes=changes))
        return known[changes]

    return of


def check(case, on_one_device):
    expected, found = on_one_device(case.changes), two_steps(case)
    jax.tree.map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            a,
            b,
            rtol=0.0,
            atol=2e-6 * np.abs(b).max(),
            err_msg=jax.tree_util.keystr(path),
        ),
        found,
        expected,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mesh_updates_as_one_device(case, on_one_device):
    check(case, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHER_CASES.values(), ids=OTHER_CASES)
def test_every_other_mesh_updates_as_one_device(case, on_one_device):
    check(case, on_one_device)


def test_the_updates_that_are_compared_are_not_small(on_one_device):
    _, first, second = on_one_device(())
    assert second["loss"].mean() < first["loss"].mean() - 0.1
    assert first["update_norm"] > 0.1

import dataclasses

import jax
import pytest

from salt_jax import gin_config
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.model.flops import step_flops
from salt_jax.optim.schedules import LinearDecay
from salt_jax.training.description import count_params, describe, schedule_steps
from tests import runs
from tests.examples import small_model
from tests.model.all_parts import ALL_PARTS


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("parts", [{}, ALL_PARTS], ids=["plain", "all parts"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_they_are_initialized(tied, parts, scan_layers):
    model, params = small_model(tied_embedding=tied, scan_layers=scan_layers, **parts)
    c = model.config
    heads = c.num_heads + 2 * c.num_kv_heads
    attention = c.embed_dim * c.head_dim * (heads + c.num_heads)
    norms = 2 * c.embed_dim
    if parts:  # Biases of queries, keys and values; norms of heads, and after.
        attention += heads * c.head_dim
        norms += 2 * c.head_dim + 2 * c.embed_dim
    assert count_params(c) == {
        "embedding": c.vocab_size * c.embed_dim * (1 if tied else 2),
        "attention": c.num_layers * attention,
        "feed_forward": c.num_layers * 3 * c.embed_dim * c.mlp_dim,
        "norms": c.num_layers * norms + c.embed_dim,
        "total": sum(x.size for x in jax.tree.leaves(params)),
    }


def test_stages_have_their_steps_tokens_flops_and_teacher(tmp_path):
    experiment = runs.experiment(tmp_path)
    described = describe(experiment)
    first, second = described["stages"]
    ends = [(x["begin_step"], x["end_step"]) for x in (first, second)]
    assert ends == [(0, runs.N_KD), (runs.N_KD, runs.TOTAL_STEPS)]
    tokens = 8 * runs.SEQ_LEN
    assert first["tokens"] == runs.N_KD * tokens
    per_token = step_flops(runs.STUDENT, runs.TEACHER, runs.SEQ_LEN)
    assert first["flops"] == runs.N_KD * tokens * per_token
    assert described["total"]["flops"] == first["flops"] + second["flops"]
    assert first["teacher"]["export"] == f"{tmp_path}/teacher"
    assert first["teacher"]["params"] == count_params(runs.TEACHER)
    assert second["teacher"] is None


def test_schedules_are_shown_where_they_turn(tmp_path):
    experiment = runs.experiment(tmp_path)
    distill, standard = experiment.stages
    decay = LinearDecay(start=0.5, end=0.1, begin_step=1, end_step=runs.N_KD)
    distillation = dataclasses.replace(distill.distillation, kd_weight=decay)
    stages = (dataclasses.replace(distill, distillation=distillation), standard)
    experiment = dataclasses.replace(experiment, stages=stages)
    steps = schedule_steps(experiment)
    n_kd, last = runs.N_KD, runs.TOTAL_STEPS - 1
    assert steps == sorted({0, 1, 2, n_kd - 1, n_kd, last})
    shown = describe(experiment)["schedules"]
    assert [at["step"] for at in shown] == steps
    rates = {at["step"]: at["learning_rate"] for at in shown}
    assert rates[0] == 0.0 and rates[2] == pytest.approx(1e-2)  # The warm-up's end.
    weights = {at["step"]: at["kd_weight"] for at in shown}
    assert weights[0] == 0.5 and weights[n_kd] is None
    assert weights[n_kd - 1] == pytest.approx(float(decay(n_kd - 1)))


def test_a_mesh_that_the_devices_here_do_not_fill_is_described(tmp_path):
    experiment = runs.experiment(tmp_path, mesh=MeshShape(model=3))
    assert describe(experiment)["mesh"] == {
        "axes": {"replica": 1, "data": None, "model": 3},
        "devices_here": 8,
        "fills_devices_here": False,
    }
    experiment = runs.experiment(tmp_path, mesh=MeshShape(model=2))
    mesh = describe(experiment)["mesh"]
    assert mesh["axes"] == {"replica": 1, "data": 4, "model": 2}
    assert mesh["fills_devices_here"]


def test_a_large_experiment_is_described_without_allocating_it():
    before = {id(x) for x in jax.live_arrays()}
    described = describe(gin_config.load(["gin/salt_70b.gin"]))
    assert described["student"]["params"]["total"] > 60e9
    made = [x for x in jax.live_arrays() if id(x) not in before]
    assert sum(x.nbytes for x in made) < 1e5

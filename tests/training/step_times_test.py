import dataclasses

import jax
import numpy as np
import pytest

from salt_jax import config
from salt_jax.data.reading.objectives import PrefixLM
from salt_jax.loss.gates import WhereTeacherLeads, WhereTeacherRanks
from salt_jax.model.flops import step_flops
from salt_jax.training.step_costs import cost_of
from salt_jax.training.step_times import (
    Steppers,
    StepTime,
    measure,
    time_steps,
)
from tests import runs

EXPERIMENT = runs.experiment("nowhere", validation=None)
DISTILL, STANDARD = EXPERIMENT.stages


@pytest.fixture(scope="module")
def timed():
    """Both stages, and beside them a run whose only stage is the same as the second."""
    baseline = dataclasses.replace(EXPERIMENT, stages=(STANDARD,), seed=5)
    small = dataclasses.replace(baseline, model=runs.TEACHER)
    experiments = {"salt": EXPERIMENT, "baseline": baseline, "slm": small}
    return time_steps(experiments, rounds=3, steps_per_block=2)


@pytest.mark.slow
def test_each_distinct_update_is_timed_once_and_the_plain_one_first(timed):
    assert [x.name for x in timed] == ["salt/standard", "salt/distill", "slm/standard"]
    assert all(len(x.seconds) == 3 and min(x.seconds) > 0 for x in timed)


def test_an_update_has_the_flops_of_a_step(timed):
    tokens = EXPERIMENT.batch_size * EXPERIMENT.seq_len
    per_token = (
        step_flops(runs.STUDENT, None, runs.SEQ_LEN),
        step_flops(runs.STUDENT, runs.TEACHER, runs.SEQ_LEN),
        step_flops(runs.TEACHER, None, runs.SEQ_LEN),
    )
    assert [x.flops for x in timed] == [tokens * each for each in per_token]


def test_without_a_plain_stage_its_update_is_timed_all_the_same():
    taught = dataclasses.replace(EXPERIMENT, stages=(DISTILL,))
    names = [x.name for x in time_steps({"rkd": taught}, rounds=1, steps_per_block=1)]
    assert names == ["rkd/distill_plain", "rkd/distill"]


@pytest.mark.slow
def test_steps_of_any_stage_go_on_from_one_state_and_stay_finite():
    distillation = dataclasses.replace(DISTILL.distillation, teacher_dtype="int8")
    taught = dataclasses.replace(DISTILL, distillation=distillation)
    data = dataclasses.replace(STANDARD.data, objective=PrefixLM())
    steppers = Steppers(EXPERIMENT)
    steppers.compile(taught)(2)
    steppers.compile(dataclasses.replace(STANDARD, data=data))(3)
    assert int(steppers._state.step) == 5
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(steppers._state.params))


def test_every_round_makes_a_block_of_each_work_in_an_order_of_its_own():
    calls = []
    works = [lambda i=i: calls.append(i) for i in range(3)]
    assert measure(works, rounds=8).shape == (3, 8)
    rounds = np.reshape(calls, (9, 3))  # The first one warms up.
    assert all(sorted(order) == [0, 1, 2] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 2


def test_numbers_are_medians_and_quartiles_over_blocks_and_ratios_within_rounds():
    plain = StepTime(name="plain", cost={}, flops=1.0, seconds=[1.0, 2.0, 4.0])
    taught = StepTime(name="taught", cost={}, flops=2.0, seconds=[1.5, 2.0, 8.0])
    said = taught.describe(plain)
    assert (said["blocks"], said["median"], said["quartiles"]) == (3, 2.0, [1.75, 5.0])
    # The ratios are 1.5, 1 and 2, though their medians are equal.
    assert said["ratio_to_plain"] == {"median": 1.5, "quartiles": [1.25, 1.75]}
    expected = np.std([1.5, 2.0, 8.0]) / np.mean([1.5, 2.0, 8.0])
    assert said["coefficient_of_variation"] == pytest.approx(expected, rel=1e-12)


def cost(experiment, stage):
    return cost_of(config.as_json(experiment), config.as_json(stage))


def test_what_decides_a_step_time_is_shape_and_not_values():
    replace = dataclasses.replace
    same = replace(EXPERIMENT, seed=7, save_every=9)
    assert cost(same, replace(STANDARD, end_step=99)) == cost(EXPERIMENT, STANDARD)
    half = replace(EXPERIMENT, batch_size=4)
    deep = replace(EXPERIMENT, model=replace(runs.STUDENT, num_layers=5))

    def taught(**changes):
        distillation = replace(DISTILL.distillation, **changes)
        return cost(EXPERIMENT, replace(DISTILL, distillation=distillation))

    wider = WhereTeacherRanks(k=50)
    assert taught(tokens=WhereTeacherRanks()) == taught(tokens=wider)
    assert taught(temperature=2.0) == cost(EXPERIMENT, DISTILL)
    costs = [
        cost(EXPERIMENT, STANDARD),
        cost(EXPERIMENT, DISTILL),
        taught(teacher=runs.STUDENT),
        taught(tokens=WhereTeacherRanks()),
        taught(tokens=WhereTeacherLeads()),
        taught(real_vocab_size=4000),
        cost(half, STANDARD),
        cost(deep, STANDARD),
    ]
    assert all(a != b for i, a in enumerate(costs) for b in costs[:i])


@pytest.mark.parametrize("counts", [(0, 4), (3, 0)])
def test_no_rounds_and_no_steps_are_refused(counts):
    rounds, steps = counts
    with pytest.raises(ValueError, match=f"rounds={rounds} .*steps_per_block={steps}"):
        time_steps({"a": EXPERIMENT}, rounds=rounds, steps_per_block=steps)

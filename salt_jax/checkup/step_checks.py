"""Training steps on random tokens: measured, by formula, and as the compiler said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax

from salt_jax.checkup.device_rates import peak_of
from salt_jax.checkup.sizes import VOCABULARY, Sizes, sizes_of
from salt_jax.checkup.values import Line, Setting, aim, measured, undone
from salt_jax.compiling import programs
from salt_jax.compiling.inspected import Inspected, inspect
from salt_jax.config import Distillation, Experiment, Stage
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.mesh.memory import GIB, available_per_device, bytes_per_device
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.training.program import Program
from salt_jax.training.step_times import StepTime, time_steps

HELPED, PLAIN = "distill", "standard"


def steps(setting: Setting) -> Iterator[Line]:
    """Yields time, MFU and memory of both stages' steps, each beside its prediction."""
    sizes = sizes_of(setting)
    experiment = experiment_of(sizes, jax.device_count())
    program = Program.on(experiment)
    count = sum(x.size for x in jax.tree.leaves(program.abstract_state.params))
    yield measured("parameters of the student", count / 1e6, "million")
    yield measured(
        "tokens of a step",
        experiment.largest_batch * experiment.seq_len,
        f"on {jax.device_count()} devices",
    )
    available = available_per_device(jax.devices()[0])
    inspected = {
        stage.name: inspect(
            programs.of_stage(program, stage), available, predicted=True
        )
        for stage in experiment.stages
    }
    for name, one in inspected.items():
        seconds = one.lower_seconds + one.compile_seconds
        yield measured(f"{name}: lowering and compiling", seconds, "s")
        found = ", ".join(one.attention) or "no kernel: plain operations"
        yield measured(f"{name}: attention in the compiled step", found)
    timed = {
        update.name.partition("/")[2]: update
        for update in time_steps(
            {"check": experiment},
            rounds=sizes.rounds,
            steps_per_block=sizes.steps_per_block,
        )
    }
    yield from _times(setting, timed, inspected)
    yield from _beside_floor(timed, inspected)
    yield from _memory(program, inspected)


def experiment_of(sizes: Sizes, devices: int) -> Experiment:
    """Returns both stages on no data: batches are random."""
    data = PreparedText(path="not read", vocabulary=VOCABULARY)
    distillation = Distillation(
        teacher=sizes.teacher,
        teacher_export="not read",
        kd_weight=Constant(value=0.667),
        teacher_dtype=sizes.teacher.dtype,
    )
    return Experiment(
        model=sizes.student,
        stages=(
            Stage(name=HELPED, end_step=1, data=data, distillation=distillation),
            Stage(name=PLAIN, end_step=2, data=data),
        ),
        optimizer=AdamW(learning_rate=Constant(value=1e-4)),
        batch_size=sizes.rows_per_device * devices,
        seq_len=sizes.seq_len,
        loss_chunk_tokens=sizes.chunk_tokens,
    )


def _times(
    setting: Setting,
    timed: Mapping[str, StepTime],
    inspected: Mapping[str, Inspected],
) -> Iterator[Line]:
    peak, origin = peak_of(setting)
    for name, update in timed.items():
        yield measured(f"{name}: step", 1000 * update.median, "ms")
        yield measured(
            f"{name}: variation of blocks of steps", 100 * update.variation, "%"
        )
        mfu = update.flops / update.median / peak / jax.device_count()
        why = f"share of {origin}; a formula of products alone, nothing recomputed"
        yield aim(f"{name}: MFU", mfu, 0.4, 1.0, why)
        planned = inspected[name].planned
        predicted = planned.flops.total * planned.tokens_per_chip / peak
        yield measured(
            f"{name}: products at {origin}",
            1000 * predicted,
            "ms",
            "a lower bound: recomputed products too, nothing else",
        )
        yield measured(f"{name}: step / that", update.median / predicted)
        yield from _beside_schedule(name, update, inspected[name])


def _beside_schedule(name: str, update: StepTime, one: Inspected) -> Iterator[Line]:
    """Compares a step with what `compile` predicts from the schedule."""
    what = f"{name}: step / time predicted from the schedule"
    if one.prediction is None:
        yield undone(what, "compile predicts times for TPUs with published rates")
        return
    seconds = one.prediction.seconds
    yield measured(f"{name}: time predicted from the schedule", 1000 * seconds, "ms")
    why = "by the cycles of XLA's cost model; nothing was run for the prediction"
    yield aim(what, update.median / seconds, 0.8, 1.25, why)


def _beside_floor(
    timed: Mapping[str, StepTime], inspected: Mapping[str, Inspected]
) -> Iterator[Line]:
    helped, plain = timed[HELPED], timed[PLAIN]
    ratio = helped.describe(plain)["ratio_to_plain"]["median"]
    floor = inspected[HELPED].planned.flops.total / inspected[PLAIN].planned.flops.total
    yield measured("stage one / plain, FLOPs", floor)
    yield measured("stage one / plain, time", ratio, why="medians of paired blocks")
    yield aim(
        "stage one / plain, time by FLOPs",
        ratio / floor,
        0.9,
        1.05,
        "the teacher should cost its products and little more",
    )


def _memory(program: Program, inspected: Mapping[str, Inspected]) -> Iterator[Line]:
    (distillation,) = (
        stage.distillation
        for stage in program.experiment.stages
        if stage.distillation is not None
    )
    teacher = bytes_per_device(program.abstract_teacher(distillation))
    for name, one in inspected.items():
        yield measured(f"{name}: predicted memory of a device", one.peak / GIB, "GiB")
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in stats:
        why = f"a {jax.devices()[0].platform} does not say what it used"
        yield undone("measured / predicted memory", why)
        return
    # The teacher stays while plain steps run too, because both alternate.
    predicted = max(inspected[HELPED].peak, inspected[PLAIN].peak + teacher)
    used = stats["peak_bytes_in_use"]
    yield measured("measured memory of a device, both", used / GIB, "GiB")
    yield aim(
        "measured / predicted memory",
        used / predicted,
        0.85,
        1.1,
        "making the state, programs and autotuning take memory too",
    )

"""What a laboratory measures: commands that follow the training of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of salt_jax about one run; its words are templates.

    `{self}` is the folder of the run: `{self}/run` its run directory, `{self}/export`
    and `{self}/export-STEP` its exports, which are made because they are named.
    """

    name: str  # Of what it makes, in the folder of the run.
    command: str
    options: Sequence[str]
    reads_gin: bool = True  # Whether the run's gin files and bindings are given too.
    # The file or folder that it writes; None: that of `name`; "": it only prints.
    makes: str | None = None
    bindings: Sequence[str] = ()  # They replace the run's own of the same name.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that is complete."""

    total_steps: int
    is_arm: bool  # Or a small model.


class Measure(Protocol):
    """A measurement of runs."""

    def commands(self, run: Trained) -> Iterator[Command]:
        """Yields the commands that measure a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out loss by domain, after training: `evaluate`."""

    def commands(self, run: Trained) -> Iterator[Command]:
        """Yields one command, for arms and small models."""
        yield Command(
            name="evaluation",
            command="evaluate",
            options=("--workdir={self}/run",),
            makes="run/evaluation.json",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherText:
    """Loss on other held-out text than the run's, after training: `evaluate`."""

    name: str  # Of the folder beside the run, and in the report.
    bindings: Sequence[str]  # Such as "DATA='runs/other/data'", of the same vocabulary.

    def __post_init__(self):
        if not self.bindings or isinstance(self.bindings, str):
            raise ValueError(
                f"OtherText.bindings are bindings NAME=VALUE, got {self.bindings!r}."
            )

    def commands(self, run: Trained) -> Iterator[Command]:
        """Yields one command, for arms and small models."""
        yield Command(
            name=self.name,
            command="evaluate",
            options=(f"--workdir={{self}}/{self.name}", "--export={self}/export"),
            makes=f"{self.name}/evaluation.json",
            bindings=self.bindings,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Few-shot tasks at some steps of the training of each arm, and at its end."""

    tasks: Sequence[str]  # Tasks or groups of lm-evaluation-harness.
    steps: Sequence[int] = ()
    num_fewshot: int | None = None  # None: as each task says.
    limit: int | None = None  # Questions of each task; None: all.

    def __post_init__(self):
        if not self.tasks or isinstance(self.tasks, str):
            raise ValueError(f"FewShot.tasks are names of tasks, got {self.tasks!r}.")
        if any(step < 1 for step in self.steps):
            raise ValueError(f"FewShot.steps are positive, got {tuple(self.steps)}.")

    def commands(self, run: Trained) -> Iterator[Command]:
        """Yields one command a step, for arms."""
        if not run.is_arm:
            return
        for step in sorted({*self.steps, run.total_steps}):
            yield Command(
                name=f"few_shot-{step}",
                command="evaluate",
                options=(
                    f"--tasks={','.join(self.tasks)}",
                    *(
                        f"--{name}={getattr(self, name)}"
                        for name in ("num_fewshot", "limit")
                        if getattr(self, name) is not None
                    ),
                    f"--export={{self}}/export-{step}",
                    f"--output={{self}}/few_shot-{step}",
                ),
                reads_gin=False,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Step times of each distinct update, beside the reference's: `time_steps`."""

    rounds: int = 30
    steps_per_block: int = 4

    def __post_init__(self):
        for name in ("rounds", "steps_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"StepTimes.{name} is positive, got {getattr(self, name)}."
                )

"""A laboratory with all its runs, as far as they have come."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.lab import lab_file
from salt_jax.lab.lab_file import LabFile, MadeEntry
from salt_jax.report.arms.seed_run import SeedRun
from salt_jax.report.step_clock import StepClock

WHATS = ("steps", "flops", "seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laboratory:
    """The runs of a laboratory, by arm or small model and seed.

    Raises:
      ValueError: two runs were validated on different rows.
    """

    file: LabFile
    arms: Sequence[MadeEntry]  # Those of the file, and their moving averages.
    runs: Mapping[tuple[str, int], SeedRun]
    clock: StepClock | None  # None: step times were not measured.

    def __post_init__(self) -> None:
        first: SeedRun | None = None
        for arm in self.file.arms:
            for seed in self.file.seeds:
                run = self.runs[arm.name, seed]
                if run.trained is None:
                    continue
                first = first or run
                if run.validation_rows != first.validation_rows:
                    raise ValueError(
                        f"{run.workdir} is validated on {run.validation_rows}, and "
                        f"{first.workdir} on {first.validation_rows}: losses of "
                        "different rows are not compared. Give all arms one validation."
                    )

    @classmethod
    def read(cls, folder: epath.PathLike) -> Laboratory:
        """Reads `lab.json` in `folder`, and what it names.

        Raises:
          FileNotFoundError: there is no `lab.json`.
          ValueError: a file is damaged, or runs cannot be compared.
        """
        if not (epath.Path(folder) / lab_file.LAB_FILE).exists():
            raise FileNotFoundError(
                f"No {lab_file.LAB_FILE} in {folder}: the command 'lab' writes it. Run "
                "it first."
            )
        file = lab_file.read(folder)
        made = (*file.arms, *file.small_models)
        runs: dict[tuple[str, int], SeedRun] = {}
        for each in made:
            runs |= _read_runs(each, file)
        arms = list(file.arms)
        for arm in file.arms:
            averaged = dataclasses.replace(arm, name=f"{arm.name}, averaged")
            found = _read_runs(averaged, file, average=True)
            if any(run.validated for run in found.values()):
                arms.insert(arms.index(arm) + 1, averaged)
                runs |= found
        times = dict.fromkeys(each.step_times for each in made if each.step_times)
        clocks = [StepClock.read(path) for path in times if epath.Path(path).exists()]
        clock = StepClock.merged(clocks) if clocks else None
        return cls(file=file, arms=arms, runs=runs, clock=clock)

    @property
    def others(self) -> list[MadeEntry]:
        """The arms that are compared, in their order."""
        return [arm for arm in self.arms if arm.name != self.file.reference]

    @property
    def fresh(self) -> tuple[int, ...]:
        """The seeds that nothing was chosen on."""
        return tuple(s for s in self.file.seeds if s not in self.file.chosen_on)

    def finished(self, name: str) -> list[int]:
        """Returns the seeds of which the run of an arm or small model is finished."""
        return [s for s in self.file.seeds if self.runs[name, s].is_finished]

    def pairs(self, name: str, seeds: Sequence[int]) -> list[int]:
        """Returns those of `seeds` of which an arm and the reference are finished."""
        both = {*self.finished(name)} & {*self.finished(self.file.reference)}
        return [seed for seed in seeds if seed in both]

    def seconds(self, run: SeedRun, steps: np.ndarray) -> np.ndarray | None:
        """Returns the training time up to each of `steps` [s], None if not measured."""
        if self.clock is None or run.trained is None or not self.clock.has(run.trained):
            return None
        return self.clock.seconds(run.trained, steps)

    def spent(self, run: SeedRun, what: str) -> float | None:
        """Returns the total "flops" or "seconds" of a run, None if unknown."""
        if run.trained is None or not run.is_finished:
            return None
        if what == "flops":
            return run.trained.spent("flops")
        found = self.seconds(run, np.array(run.trained.steps))
        return None if found is None else float(found)

    def bill(self, name: str, seed: int, what: str) -> float | None:
        """Returns what an arm needs before it starts; None if a part is unknown.

        The training of its small models, and scoring. Selection takes no FLOPs, and
        seconds of a host. Scoring is billed at the FLOP rate of the first small model.

        Args:
          name: The arm.
          seed: Its seed.
          what: "steps", of which there are none; "flops"; or "seconds".
        """
        if what == "steps":
            return 0.0
        if self._has_foreign_teacher(name, seed):
            return None
        trained, scores = self._needs(name, seed)
        parts = [self.spent(run, what) for run in trained]
        for folder in scores:
            parts.append(self._scoring(folder, trained, what))
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def teacher(self, name: str, seed: int) -> SeedRun | None:
        """Returns the small model that teaches an arm, if it is of this laboratory."""
        export = self.runs[name, seed].teacher_export
        for each in self.file.small_models:
            run = self.runs[each.name, seed]
            home = os.path.dirname(run.workdir)
            if export is not None and export.startswith(f"{home}/"):
                return run
        return None

    def teachers(self, name: str) -> Mapping[int, SeedRun]:
        """Returns the runs, by seed, of the small model that teaches an arm.

        Seeds with which the arm has not begun are among them.
        """
        for seed in self.file.seeds:
            if (run := self.teacher(name, seed)) is not None:
                taught_by = next(x for x in self.runs if self.runs[x] is run)[0]
                return {seed: self.runs[taught_by, seed] for seed in self.file.seeds}
        return {}

    def _has_foreign_teacher(self, name: str, seed: int) -> bool:
        has_one = self.runs[name, seed].teacher_export is not None
        return has_one and self.teacher(name, seed) is None

    def _needs(self, name: str, seed: int) -> tuple[list[SeedRun], list[str]]:
        """Returns the small models and the folders of scores that a run needs."""
        arm = next(each for each in self.arms if each.name == name)
        nodes = arm.needs.get(str(seed), ())
        commands = {node.name: node.argv[0] for node in self.file.nodes}
        places = {node: f"{self.file.root}/{node}" for node in nodes}
        trained = [
            self._run_at[place]
            for node, place in places.items()
            if commands[node] == "train"
        ]
        scored = [x for node, x in places.items() if commands[node] == "score"]
        return trained, scored

    @functools.cached_property
    def _run_at(self) -> dict[str, SeedRun]:
        runs = self.runs.values()
        return {run.workdir: run for run in runs if run.loss == "val_loss"}

    def _scoring(
        self, folder: str, small_models: Sequence[SeedRun], what: str
    ) -> float | None:
        if not list(epath.Path(folder).glob("bill-*.json")):
            return None
        flops = float(read_bill(folder).flops)
        if what == "flops":
            return flops
        scorer = small_models[0].trained if small_models else None
        if self.clock is None or scorer is None or not self.clock.has(scorer):
            return None
        return flops / self.clock.flops_per_second(scorer)


def _read_runs(
    made: MadeEntry, file: LabFile, *, average: bool = False
) -> dict[tuple[str, int], SeedRun]:
    runs = {}
    for seed in file.seeds:
        workdir = made.folders[str(seed)]
        runs[made.name, seed] = SeedRun.read(
            workdir,
            {} if average else made.few_shot.get(str(seed), {}),
            others=() if average else _on_other_text(file, workdir),
            average=average,
        )
    return runs


def _on_other_text(file: LabFile, workdir: str) -> list[str]:
    """Returns the files of evaluations beside a run: of text that it does not name."""
    home = os.path.dirname(workdir)
    outputs = [node.output or "" for node in file.nodes if node.argv[0] == "evaluate"]
    return [
        path
        for path in outputs
        if os.path.basename(path) == "evaluation.json"
        and os.path.dirname(os.path.dirname(path)) == home
        and os.path.dirname(path) != workdir
    ]

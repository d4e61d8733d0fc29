"""Planning: from a laboratory to its graph of commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from salt_jax.lab.graph import Node, Plan, Reading, argv_of
from salt_jax.lab.measures import Command, Trained
from salt_jax.lab.placeholders import EXPORT, Resolved, Resolver
from salt_jax.lab.step_time_nodes import step_time_nodes
from salt_jax.lab.values import Arm, Lab, Scores, split_binding

KEEP_STEPS = "config.Experiment.keep_steps"


def plan(lab: Lab, reading: Reading) -> Plan:
    """Returns the commands of a laboratory.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: a placeholder is unknown, an entry needs itself, gin cannot read the
        files of one, or a binding has no effect.
    """
    return _Planning(lab, reading).plan()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A node whose bindings may still get the steps to keep."""

    command: str
    options: Sequence[str]
    needs: Sequence[str]
    output: str | None
    each: Resolved
    reads_gin: bool = True
    bindings: Sequence[str] = ()  # They replace the run's own.


class _Planning:
    def __init__(self, lab: Lab, reading: Reading):
        self._lab, self._reading = lab, reading
        self._resolver = Resolver(lab)
        self._jobs: dict[str, Any] = {}  # What gin files make, by name.
        self._wanted: dict[str, _Wanted] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # Bindings of KEEP_STEPS, by name.

    def plan(self) -> Plan:
        lab, resolver = self._lab, self._resolver
        folders = {
            (name, seed): resolver.folder(name, seed)
            for seed in lab.seeds
            for name in resolver.named
        }
        for each in resolver.resolved.values():
            self._load(each)
        for each in resolver.resolved.values():
            self._want(each)
        self._want_exports()
        nodes = self._prepared() + [self._node(name) for name in self._in_order()]
        timed = step_time_nodes(lab, self._jobs, resolver, self._reading)
        nodes += timed.values()
        return Plan(
            nodes={node.name: node for node in nodes},
            folders=folders,
            step_times={name: str(node.output) for name, node in timed.items()},
        )

    def _prepared(self) -> list[Node]:
        if (prepared := self._lab.preparation) is None:
            return []
        files, bindings = prepared.gin_files, prepared.bindings
        job = self._check("Prepared", "Preparation", files, bindings, ())
        argv = argv_of("prepare", files, bindings)
        return [Node(name="prepare", argv=argv, output=job.output)]

    def _load(self, each: Resolved) -> None:
        """Reads the gin files of an entry: once, or with each seed if it matters."""
        entry = each.entry
        by_default = getattr(entry, "seed_binding", None)
        varies = any("{seed}" in x for x in entry.bindings if x != by_default)
        if varies or entry.name not in self._jobs:
            seed = f" with seed {each.seed}" if varies else ""
            job = self._check(
                f"{type(entry).__name__} {entry.name!r}{seed}",
                "Scoring" if isinstance(entry, Scores) else "Experiment",
                *(entry.gin_files, each.bindings, entry.gin_imports),
            )
            self._jobs.setdefault(entry.name, job)

    def _check(self, what: str, kind: str, *gin: Sequence[str]) -> Any:
        try:
            job = self._reading.load(*gin)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{what}: {error}") from error
        if (found := type(job).__name__) != kind:
            raise ValueError(f"{what}: {gin[0][-1]} binds {found}, not {kind}.")
        return job

    def _want(self, each: Resolved) -> None:
        """Adds the command that makes an entry, and those that measure it."""
        is_scores, path = (
            isinstance(each.entry, Scores),
            f"{self._lab.root}/{each.node}",
        )
        self._wanted[each.node] = _Wanted(
            command="score" if is_scores else "train",
            options=() if is_scores else (f"--workdir={path}",),
            needs=each.needs,
            output=path,
            each=each,
        )
        if is_scores:
            return
        run = Trained(
            total_steps=self._jobs[each.entry.name].total_steps,
            is_arm=isinstance(each.entry, Arm),
        )
        for measure in self._lab.measures:
            for command in measure.commands(run):
                self._want_measured(each, command)

    def _want_measured(self, each: Resolved, command: Command) -> None:
        where = f"{command.name} of {each.entry.name!r}"
        expanded = [
            self._resolver.expand(
                text, each.seed, where, own=each.folder, makes=command.name
            )
            for text in command.options
        ]
        makes = command.name if command.makes is None else command.makes
        self._wanted[f"{each.folder}/{command.name}"] = _Wanted(
            command=command.command,
            options=tuple(text for text, _ in expanded),
            needs=tuple(dict.fromkeys(x for _, found in expanded for x in found)),
            output=None if makes == "" else f"{self._lab.root}/{each.folder}/{makes}",
            each=each,
            reads_gin=command.reads_gin,
            bindings=command.bindings,
        )

    def _want_exports(self) -> None:
        """Adds the exports that are needed, and has their checkpoints kept."""
        steps: dict[str, set[int]] = {}
        needed = {need for wanted in self._wanted.values() for need in wanted.needs}
        for name in sorted(needed - self._wanted.keys()):
            folder, _, item = name.rpartition("/")
            found = EXPORT.fullmatch(item)
            assert found is not None, name
            each = self._resolver.resolved[folder]
            step = found[1]
            if step:
                steps.setdefault(each.entry.name, set()).add(int(step))
            path = f"{self._lab.root}/{name}"
            self._wanted[name] = _Wanted(
                command="export",
                options=(
                    f"--workdir={self._lab.root}/{each.node}",
                    *([f"--step={step}"] if step else []),
                    f"--output={path}",
                ),
                needs=(each.node,),
                output=path,
                each=each,
            )
        for name, of_name in steps.items():
            self._kept[name] = _keeping(name, self._jobs[name], of_name)

    def _in_order(self) -> list[str]:
        """Returns the names of what is wanted: all of one seed before the next.

        So a laboratory that is stopped early has runs that can be compared.
        """
        lab, order = self._lab, dict[str, None]()

        def add(name: str) -> None:
            if name not in order:
                for need in self._wanted[name].needs:
                    add(need)
                order[name] = None

        arms = sorted(lab.arms, key=lambda arm: arm.name != lab.reference)
        for seed in lab.seeds:
            for entry in (*arms, *lab.small_models, *lab.scores):
                folder = self._resolver.folder(entry.name, seed)
                for name, wanted in self._wanted.items():
                    if wanted.each.folder == folder and wanted.command != "export":
                        add(name)
        return list(order)

    def _node(self, name: str) -> Node:
        wanted, entry = self._wanted[name], self._wanted[name].each.entry
        argv: Sequence[str] = (wanted.command, *wanted.options)
        if wanted.reads_gin:
            replaced = {split_binding(binding)[0] for binding in wanted.bindings}
            own = [
                binding
                for binding in (*wanted.each.bindings, *self._kept.get(entry.name, ()))
                if split_binding(binding)[0] not in replaced
            ]
            argv = argv_of(
                wanted.command,
                entry.gin_files,
                (*own, *wanted.bindings),
                entry.gin_imports,
                wanted.options,
            )
        # What measures a run comes after it, and so after the corpus.
        reads = self._lab.preparation is not None and name == wanted.each.node
        needs = (*(["prepare"] if reads else []), *wanted.needs)
        return Node(name=name, argv=argv, needs=needs, output=wanted.output)


def _keeping(name: str, experiment: Any, steps: set[int]) -> tuple[str, ...]:
    """Returns the binding that keeps the checkpoints of some steps, if it is needed."""
    total, kept = experiment.total_steps, set(experiment.keep_steps)
    if wrong := sorted(step for step in steps if step > total):
        raise ValueError(
            f"{name!r} trains {total} steps, and an export of step {wrong[0]} is asked."
        )
    if not steps - kept - {total}:
        return ()
    keep = "".join(f"{step}, " for step in sorted(kept | steps - {total})).strip()
    return (f"{KEEP_STEPS}=({keep})",)

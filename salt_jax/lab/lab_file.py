"""The file lab.json: what a report needs to know of a laboratory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath

from salt_jax.files.records import read_record, write_record
from salt_jax.lab.graph import Plan
from salt_jax.lab.values import Arm, Lab, Scores, SmallModel

LAB_FILE = "lab.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeEntry:
    """An arm, a small model or scores. Keys of mappings are seeds, as text."""

    name: str
    gin_files: Sequence[str]
    bindings: Sequence[str]  # Templates.
    folders: Mapping[str, str]  # Run directories, or folders of scores.
    # Names of the nodes "train" and "score" that come before it, directly or not.
    needs: Mapping[str, Sequence[str]]
    group: str = ""  # Of an arm.
    # Folders of results of few-shot tasks, by seed and step; of an arm.
    few_shot: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    step_times: str | None = None  # File, of an arm or a small model.


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeEntry:
    """A command."""

    name: str
    argv: Sequence[str]
    needs: Sequence[str]
    output: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabFile:
    """A laboratory, with its folders."""

    name: str
    root: str
    reference: str
    seeds: Sequence[int]
    arms: Sequence[MadeEntry]
    small_models: Sequence[MadeEntry]
    scores: Sequence[MadeEntry]
    nodes: Sequence[NodeEntry]
    chosen_on: Sequence[int] = ()  # Seeds that dials were chosen on.


def folder_of(lab: Lab) -> epath.Path:
    """Returns the folder of lab.json and of the report."""
    return epath.Path(lab.root) / "reports" / lab.name


def write(lab: Lab, plan: Plan) -> None:
    """Writes lab.json into the folder of the report.

    Raises:
      OSError: it cannot be written.
    """

    def entries(
        of: Sequence[Arm] | Sequence[SmallModel] | Sequence[Scores],
    ) -> list[MadeEntry]:
        return [_entry(lab, plan, entry) for entry in of]

    described = LabFile(
        name=lab.name,
        root=lab.root,
        reference=lab.reference,
        seeds=lab.seeds,
        arms=entries(lab.arms),
        small_models=entries(lab.small_models),
        scores=entries(lab.scores),
        nodes=[NodeEntry(**dataclasses.asdict(node)) for node in plan.nodes.values()],
        chosen_on=lab.chosen_on,
    )
    write_record(folder_of(lab) / LAB_FILE, dataclasses.asdict(described))


def read(folder: epath.PathLike) -> LabFile:
    """Returns the laboratory of a report's folder.

    Raises:
      OSError: there is no lab.json.
      ValueError: it is damaged.
    """
    remedy = "run the command lab again"
    return read_record(epath.Path(folder) / LAB_FILE, LabFile, remedy=remedy)


def _entry(lab: Lab, plan: Plan, entry: Arm | SmallModel | Scores) -> MadeEntry:
    item = "scores" if isinstance(entry, Scores) else "run"
    below = {seed: plan.folders[entry.name, seed] for seed in lab.seeds}
    needs = {
        str(seed): [
            name
            for name in plan.with_needs([f"{folder}/{item}"])[:-1]
            if plan.nodes[name].argv[0] in ("score", "train")
        ]
        for seed, folder in below.items()
    }
    return MadeEntry(
        name=entry.name,
        gin_files=entry.gin_files,
        bindings=entry.bindings,
        folders={str(s): f"{lab.root}/{folder}/{item}" for s, folder in below.items()},
        needs=needs,
        group=getattr(entry, "group", ""),
        few_shot={str(s): _few_shot(lab, plan, folder) for s, folder in below.items()}
        if isinstance(entry, Arm)
        else {},
        step_times=plan.step_times.get(entry.name),
    )


def _few_shot(lab: Lab, plan: Plan, folder: str) -> dict[str, str]:
    begin = f"{folder}/few_shot-"
    return {
        name.removeprefix(begin): f"{lab.root}/{name}"
        for name in plan.nodes
        if name.startswith(begin)
    }

"""Laboratories as frozen values: arms, seeds, what the arms need, what is measured.

Bindings are templates. `{seed}` is the seed of a run, `{self}` its folder, and `{slm}`
the folder of what is called slm, of the same seed: "TEACHER='{slm}/export'" names a
dependency.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from salt_jax.files.reading import is_plain_name
from salt_jax.lab.measures import HeldOut, Measure, StepTimes

RESERVED = ("done", "prepare", "reports", "seed", "self", "step_times")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """What gin files and bindings make, in a folder of its own."""

    name: str  # Of its folder, and of the placeholder that stands for it.
    gin_files: Sequence[str]
    bindings: Sequence[str] = ()  # Templates "NAME=VALUE"; a later one wins.
    gin_imports: Sequence[str] = ()  # Modules that the bindings may name.

    def __post_init__(self):
        kind = type(self).__name__
        if (
            not isinstance(self.name, str)
            or not is_plain_name(self.name)
            or not self.name.replace("_", "")
            .replace("-", "")
            .replace(".", "")
            .isalnum()
            or self.name in RESERVED
        ):
            raise ValueError(
                f"The name of {kind} {self.name!r} names a folder: letters, digits, "
                f"'_', '-' and '.', and none of {', '.join(RESERVED)}."
            )
        for field in ("gin_files", "gin_imports"):
            _set(self, field, _texts(getattr(self, field), f"{self.name}: {field}"))
        if not self.gin_files:
            raise ValueError(f"{kind} {self.name!r} has no gin_files.")
        _set(self, "bindings", _bindings(self.bindings, self.name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm(_Entry):
    """A way to train the student."""

    group: str = ""  # Arms of one group stand together in the report.
    seed_binding: str = "SEED={seed}"  # The first of the bindings.

    def __post_init__(self):
        super().__post_init__()
        _set(
            self, "bindings", _bindings((self.seed_binding, *self.bindings), self.name)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vary:
    """Arms that differ from another one in some bindings."""

    of: Arm
    # Name of each arm, and its bindings: they replace those of the same name in `of`.
    arms: Mapping[str, Sequence[str]]
    group: str | None = None  # None: that of `of`.

    def all_arms(self) -> list[Arm]:
        """Returns the arms."""
        group = self.of.group if self.group is None else self.group
        return [
            dataclasses.replace(
                self.of,
                name=name,
                group=group,
                bindings=(*self.of.bindings, *_bindings(bindings, name)),
            )
            for name, bindings in self.arms.items()
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallModel(_Entry):
    """A small model: a teacher, a scorer or what a student starts from."""

    # The data order of a student should not be that of its teacher.
    seed_binding: str = "SEED=100{seed}"
    seed: int | None = None  # All runs use the one of this seed; None: each its own.

    def __post_init__(self):
        super().__post_init__()
        _set(
            self, "bindings", _bindings((self.seed_binding, *self.bindings), self.name)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(_Entry):
    """Scores of the corpus by a small model."""

    output_binding: str = "SCORES='{self}/scores'"  # The last of the bindings.
    seed: int | None = None  # All runs use the ones of this seed; None: each its own.

    def __post_init__(self):
        super().__post_init__()
        _set(
            self,
            "bindings",
            _bindings((*self.bindings, self.output_binding), self.name),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """The preparation of the corpus that all runs read."""

    gin_files: Sequence[str]
    bindings: Sequence[str] = ()

    def __post_init__(self):
        _set(self, "gin_files", _texts(self.gin_files, "Prepared.gin_files"))
        _set(self, "bindings", _bindings(self.bindings, "Prepared"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """A question: arms, each trained with every seed, compared with a reference."""

    name: str
    root: str  # Folder of the runs; laboratories with one root share equal runs.
    seeds: Sequence[int]
    reference: str  # The arm that the others are compared with.
    arms: Sequence[Arm]  # Or a Vary, in place of its arms.
    small_models: Sequence[SmallModel] = ()
    scores: Sequence[Scores] = ()
    preparation: Prepared | None = None
    measures: Sequence[Measure] = (HeldOut(),)
    step_times: StepTimes | None = StepTimes()
    chosen_on: Sequence[int] = ()  # Seeds that dials were chosen on; others are fresh.

    def __post_init__(self):
        if not isinstance(self.name, str) or not is_plain_name(self.name):
            raise ValueError(f"Lab.name names a folder, got {self.name!r}.")
        if not self.root or self.root.endswith("/"):
            raise ValueError(
                f"Lab.root is a folder without a slash, got {self.root!r}."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"Lab.seeds are distinct, got {tuple(self.seeds)}.")
        if min(self.seeds) < 0:
            raise ValueError(f"Lab.seeds are not negative, got {tuple(self.seeds)}.")
        if unknown := sorted(set(self.chosen_on) - set(self.seeds)):
            raise ValueError(
                f"Lab.chosen_on has seed {unknown[0]}, which is none of the seeds "
                f"{tuple(self.seeds)}: leave it out, or add it to them."
            )
        arms: list[Arm] = []
        for each in self.arms:
            arms += each.all_arms() if isinstance(each, Vary) else [each]
        _set(self, "arms", tuple(arms))
        names = [each.name for each in (*self.small_models, *self.scores, *arms)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Lab {self.name!r} has two of the name {twice[0]!r}.")
        if self.reference not in [arm.name for arm in arms]:
            raise ValueError(
                f"Lab.reference={self.reference!r} is not one of the arms, "
                f"{', '.join(arm.name for arm in arms) or 'of which there are none'}."
            )


def split_binding(binding: str) -> tuple[str, str]:
    """Returns the name and the value of a binding."""
    name, _, value = binding.partition("=")
    return name.strip(), value.strip()


def _bindings(given: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns bindings "NAME=VALUE": of each name the last, where the first stood.

    Raises:
      ValueError: one is not a binding.
    """
    values: dict[str, str] = {}
    for binding in _texts(given, f"{where}: bindings"):
        name, value = split_binding(binding)
        if not name or not value:
            raise ValueError(f"{where}: {binding!r} is not a binding NAME=VALUE.")
        values[name] = value
    return tuple(f"{name}={value}" for name, value in values.items())


def _texts(given: Sequence[str], where: str) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{where} are texts, got {wrong[0]!r}.")
    return texts


def _set(value: object, name: str, to: object) -> None:
    object.__setattr__(value, name, to)

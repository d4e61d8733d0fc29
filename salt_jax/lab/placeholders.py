"""Placeholders in the bindings of a laboratory: folders, and what they name is needed.

`{seed}` is a seed, `{self}` the folder of what the binding belongs to, and `{slm}` the
folder of slm, of the same seed or of the one that it has. `{slm}/export` names a node.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from salt_jax.lab.values import Lab, Scores, SmallModel

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}(?:/([\w.-]+))?")
EXPORT = re.compile(r"export(?:-(\d+))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """An entry of a laboratory with one seed, its bindings without placeholders."""

    entry: Any  # An Arm, a SmallModel or Scores.
    seed: int
    folder: str  # Below the root.
    bindings: Sequence[str]
    needs: Sequence[str]  # Names of nodes.

    @property
    def node(self) -> str:
        """The name of the node that makes it."""
        return f"{self.folder}/{'scores' if isinstance(self.entry, Scores) else 'run'}"


class Resolver:
    """Finds the folder of each entry of a laboratory: arm, small model or scores.

    Entries that the same gin files and bindings make share the folder of the first.
    """

    def __init__(self, lab: Lab):
        self.lab = lab
        self.named = {x.name: x for x in (*lab.small_models, *lab.scores, *lab.arms)}
        self.resolved: dict[str, Resolved] = {}  # By folder.
        self._folders: dict[tuple[str, int], str] = {}
        self._same: dict[tuple[Any, ...], str] = {}  # Folders, by what makes them.
        self._begun: list[str] = []

    def folder(self, name: str, seed: int) -> str:
        """Returns the folder, below the root, of the entry of this name.

        Raises:
          ValueError: a placeholder is unknown, or the entry needs itself.
        """
        entry = self.named[name]
        seed = seed if (own := getattr(entry, "seed", None)) is None else own
        if (name, seed) not in self._folders:
            self._folders[name, seed] = self._resolve(entry, seed)
        return self._folders[name, seed]

    def of(self, name: str, seed: int) -> Resolved:
        """Returns the entry of this name; raises what `folder` does."""
        return self.resolved[self.folder(name, seed)]

    def expand(
        self, text: str, seed: int, where: str, *, own: str, makes: str | None = None
    ) -> tuple[str, list[str]]:
        """Returns a template without placeholders, and the nodes that it names.

        Args:
          text: The template.
          seed: The seed of what it belongs to.
          where: What it belongs to, for messages.
          own: The folder of that, below the root.
          makes: The name in that folder of what is made; it is not needed.

        Raises:
          ValueError: a placeholder is unknown, or what it stands for needs itself.
        """
        needs = []

        def replace(match: re.Match) -> str:
            name, item = match.groups()
            if name == "seed":
                return f"{seed}/{item}" if item else str(seed)
            if name == "self":
                folder, named = own, self.resolved.get(own)
                if makes is None or item == makes:
                    return "/".join(filter(None, [self.lab.root, own, item]))
            elif name in self.named:
                folder = self.folder(name, seed)
                named = self.resolved[folder]
            else:
                known = ", ".join(["seed", "self", *self.named])
                raise ValueError(
                    f"{where}: {{{name}}} in {text!r} is unknown; there are {known}."
                )
            _check_item(named, item, f"{where}: {text!r}")
            needs.append(f"{folder}/{item}")
            return f"{self.lab.root}/{folder}/{item}"

        return PLACEHOLDER.sub(replace, text), needs

    def _resolve(self, entry: Any, seed: int) -> str:
        if entry.name in self._begun:
            circle = " needs ".join([*self._begun, entry.name])
            raise ValueError(f"The lab goes in a circle: {circle}.")
        self._begun.append(entry.name)
        folder, kind = f"{entry.name}/seed-{seed}", type(entry).__name__
        expanded = [
            self.expand(text, seed, f"{kind} {entry.name!r}", own=folder)
            for text in entry.bindings
        ]
        self._begun.pop()
        bindings = tuple(text for text, _ in expanded)
        needs = tuple(dict.fromkeys(need for _, found in expanded for need in found))
        # What names its own folder is equal to another if it would be in its place.
        own = f"{self.lab.root}/{folder}"
        texts = tuple(text.replace(own, "{self}") for text in bindings)
        key = (isinstance(entry, Scores), entry.gin_files, texts, entry.gin_imports)
        same = self._same.setdefault(key, folder)
        if same == folder:
            self._check_seeds(entry, bindings, needs)
            self.resolved[folder] = Resolved(
                entry=entry, seed=seed, folder=folder, bindings=bindings, needs=needs
            )
        return same

    def _check_seeds(
        self, entry: Any, bindings: Sequence[str], needs: Sequence[str]
    ) -> None:
        """Checks that what is trained reads in another order than what it needs."""
        for need in needs:
            other = self.resolved[need.rpartition("/")[0]]
            if not isinstance(other.entry, SmallModel) or isinstance(entry, Scores):
                continue
            if other.bindings[0] == bindings[0]:
                raise ValueError(
                    f"{entry.name!r} and the small model {other.entry.name!r} that it "
                    f"needs both have {bindings[0]}, so they read in the same order: "
                    "give one another seed_binding."
                )


def _check_item(named: Resolved | None, item: str | None, where: str) -> None:
    """Checks that a folder has what a template names in it."""
    is_scores = named is not None and isinstance(named.entry, Scores)
    if is_scores and item == "scores":
        return
    if not is_scores and item and (item == "run" or EXPORT.fullmatch(item)):
        return
    allowed = "/scores" if is_scores else "/run, /export or /export-STEP"
    raise ValueError(f"{where} names a folder: {allowed} has to follow.")

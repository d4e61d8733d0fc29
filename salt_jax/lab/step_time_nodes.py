"""Nodes that measure step times: one for each distinct set of updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_jax.lab.graph import Node, Reading, argv_of
from salt_jax.lab.placeholders import PLACEHOLDER, Resolver
from salt_jax.lab.values import Lab


def step_time_nodes(
    lab: Lab, jobs: Mapping[str, Any], resolver: Resolver, reading: Reading
) -> dict[str, Node]:
    """Returns the node that times each arm and small model, by name.

    Runs whose updates cost the same share one. Each is timed beside the reference. The
    commands do not depend on the seeds: random parameters and batches are timed.

    Args:
      lab: The laboratory.
      jobs: What the gin files of each name make.
      resolver: Which names are the same.
      reading: How to find what decides step times.
    """
    if (times := lab.step_times) is None:
        return {}
    reference, (of_reference, _) = lab.reference, reading.programs(jobs[lab.reference])
    options = [f"--rounds={times.rounds}", f"--steps_per_block={times.steps_per_block}"]
    nodes: dict[str, Node] = {}
    by_updates: dict[frozenset[str], Node] = {}
    for entry in (*lab.arms, *lab.small_models):
        name = resolver.of(entry.name, lab.seeds[0]).entry.name
        updates, plain = reading.programs(jobs[name])
        if updates not in by_updates:
            beside = []
            if not of_reference <= updates | {plain}:
                beside = _beside(lab, resolver.named[reference])
            of_node = f"step_times/{name}_vs_{reference}.json"
            output = f"{lab.root}/{of_node}"
            source = resolver.named[name]
            argv = argv_of(
                *("time_steps", source.gin_files),
                [_at_seed_0(text, lab) for text in source.bindings],
                source.gin_imports,
                (*options, *beside, f"--output={output}"),
            )
            by_updates[updates] = Node(name=of_node, argv=argv, output=output)
        nodes[entry.name] = by_updates[updates]
    return nodes


def _beside(lab: Lab, reference: Any) -> list[str]:
    bindings = [_at_seed_0(text, lab) for text in reference.bindings]
    return [
        *(f"--beside={name}" for name in reference.gin_files),
        *(f"--beside_bindings={binding}" for binding in bindings),
    ]


def _at_seed_0(text: str, lab: Lab) -> str:
    """Returns a binding with the folders that seed 0 would have; nothing reads them."""
    return PLACEHOLDER.sub(
        lambda match: "/".join(
            filter(
                None,
                [
                    "0" if match[1] == "seed" else f"{lab.root}/{match[1]}/seed-0",
                    match[2],
                ],
            )
        ),
        text,
    )

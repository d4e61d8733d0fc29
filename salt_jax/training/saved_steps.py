"""Compiled steps in files, so that a run starts without compiling.

The files are pickles, and reading a pickle can run code: read only directories that you
trust.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.experimental import serialize_executable

import salt_jax
from salt_jax import config
from salt_jax.config import Stage
from salt_jax.data.json_files import write_json
from salt_jax.files.changes import changed_fields
from salt_jax.telemetry import versions
from salt_jax.training.program import CompiledUpdate, Program

_ABOUT = "compiled.json"


def save_compiled(
    directory: epath.PathLike,
    program: Program,
    compiled: Mapping[str, jax.stages.Compiled],
) -> None:
    """Writes the compiled step of each stage; `compiled` maps stage names to steps."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, step in compiled.items():
        contents = serialize_executable.serialize(step)
        _file(directory, name).write_bytes(pickle.dumps(contents))
    about = facts(program) | {"stages": list(compiled)}
    write_json(directory / _ABOUT, about)


def load_compiled(
    directory: epath.PathLike, program: Program, stages: Sequence[Stage]
) -> list[CompiledUpdate]:
    """Returns the saved update of each of `stages`, in order.

    Raises:
      FileNotFoundError: the step of a stage is missing.
      ValueError: the steps were compiled from another experiment, code or version, or
        for other devices.
    """
    directory = epath.Path(directory)
    if not (directory / _ABOUT).is_file():
        raise FileNotFoundError(f"No compiled steps in {directory}: no {_ABOUT}.")
    _check(directory, json.loads((directory / _ABOUT).read_text()), program, stages)
    logging.info("Loading the compiled steps from %s.", directory)
    return [_load(_file(directory, s.name), program.devices) for s in stages]


def _load(path: epath.Path, devices: Sequence[jax.Device]) -> CompiledUpdate:
    payload, in_tree, out_tree = pickle.loads(path.read_bytes())
    return serialize_executable.deserialize_and_load(
        payload,
        in_tree,
        out_tree,
        backend=devices[0].client,
        execution_devices=devices,
    )


def facts(program: Program) -> dict[str, Any]:
    """Returns everything that a compiled step depends on, as JSON types."""
    experiment, devices = program.experiment, program.devices
    return {
        "experiment": {
            name: value
            for name, value in config.as_json(experiment).items()
            if name not in config.OPERATIONAL_FIELDS
        },
        "mesh": dict(program.partitioning.mesh.shape),
        "rules": config.as_json(experiment.rules),
        "chips": f"{len(devices)} x {devices[0].device_kind}",
        "places": _places(devices),
        "slices": len({getattr(device, "slice_index", 0) for device in devices}),
        "versions": versions.of_packages() | {"libtpu": _libtpu(devices)},
        "code": _code(),
    }


def _check(
    directory: epath.Path,
    found: Mapping[str, Any],
    program: Program,
    stages: Sequence[Stage],
) -> None:
    expected = json.loads(json.dumps(facts(program)))
    before = {name: found.get(name) for name in expected}
    changed = changed_fields(before, expected)
    if changed:
        raise ValueError(
            f"The compiled steps in {directory} do not match this run: "
            f"{_described(changed, found, expected)}. Compile again, or remove "
            "--compiled."
        )
    missing = [s.name for s in stages if s.name not in found.get("stages", ())]
    if missing:
        raise FileNotFoundError(
            f"No compiled step of {', '.join(missing)} in {directory}; it has steps of "
            f"{', '.join(found.get('stages', ()))}. Compile again, or remove "
            "--compiled."
        )


def _described(
    names: Sequence[str], found: Mapping[str, Any], expected: Mapping[str, Any]
) -> str:
    return "; ".join(
        f"{name} is {_at(found, name)} there and {_at(expected, name)} here"
        for name in names
    )


def _at(tree: Any, name: str) -> Any:
    for key in name.split("."):
        if isinstance(tree, list):
            tree = dict(enumerate(tree)).get(int(key))
        else:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _file(directory: epath.Path, stage_name: str) -> epath.Path:
    return directory / f"{stage_name}.executable"


def _places(devices: Sequence[jax.Device]) -> str:
    """Returns a digest of the coordinates and the process of each device."""
    places = [(getattr(d, "coords", None), d.process_index) for d in devices]
    return hashlib.sha256(repr(places).encode()).hexdigest()[:16]


def _libtpu(devices: Sequence[jax.Device]) -> str:
    return versions.of("libtpu") if devices[0].platform == "tpu" else "not used"


def _code() -> str:
    """Returns a digest of this package's source."""
    root = pathlib.Path(salt_jax.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]

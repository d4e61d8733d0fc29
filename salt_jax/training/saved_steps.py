"""Compiled steps in files, so that a run starts without compiling.

The files are pickles, and reading a pickle can run code: read only directories that you
trust. Each file's SHA-256 is compared before it is read; this finds damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
from absl import logging
from etils import epath
from jax.experimental import serialize_executable

from salt_jax import config
from salt_jax.config import Stage
from salt_jax.files import records
from salt_jax.files.changes import changed_fields
from salt_jax.files.reading import differs, read_file, sha256_of
from salt_jax.files.writing import write_file
from salt_jax.telemetry import versions
from salt_jax.training.compiled_updates import CompiledUpdate, by_size, update_name
from salt_jax.training.program import Program

_ABOUT = "compiled.json"
_REMEDY = "compile again, or remove --compiled"


class _About(TypedDict):
    stages: dict[str, str]  # The SHA-256 of each step, by `update_name`.


def save_compiled(
    directory: epath.PathLike,
    program: Program,
    compiled: Mapping[str, jax.stages.Compiled],
) -> None:
    """Writes the compiled steps, by `update_name`."""
    directory = epath.Path(directory)
    digests = {}
    for name, step in compiled.items():
        contents = pickle.dumps(serialize_executable.serialize(step))
        write_file(_file(directory, name), contents)
        digests[name] = sha256_of(contents)
    records.write_record(directory / _ABOUT, facts(program) | {"stages": digests})


def load_compiled(
    directory: epath.PathLike,
    program: Program,
    stages: Sequence[Stage],
    from_step: int = 0,
) -> list[CompiledUpdate]:
    """Returns the saved update of each of `stages`, in order.

    Args:
      directory: Where `save_compiled` wrote them.
      program: The program.
      stages: Some of its stages.
      from_step: The steps that are made already.

    Raises:
      FileNotFoundError: the step of a stage is missing.
      ValueError: a file is damaged; or the steps were compiled from another experiment,
        code or version, or for other devices.
    """
    directory = epath.Path(directory)
    about = directory / _ABOUT
    if not about.is_file():
        raise FileNotFoundError(f"No compiled steps in {directory}: no {_ABOUT}.")
    found = records.read_record(about, dict[str, Any], remedy=_REMEDY)
    _check(directory, found, program)
    digests = records.typed(found, _About, where=str(about), remedy=_REMEDY)["stages"]
    sizes = [program.experiment.sizes_of(s.name, from_step) for s in stages]
    wanted = [
        {rows: update_name(program, stage, rows) for rows in of_stage}
        for stage, of_stage in zip(stages, sizes, strict=True)
    ]
    names = [name for each in wanted for name in each.values()]
    missing = [name for name in names if name not in digests]
    if missing:
        raise FileNotFoundError(
            f"No compiled step of {', '.join(missing)} in {directory}; it has steps of "
            f"{', '.join(digests)}: {_REMEDY}."
        )
    logging.info("Loading the compiled steps from %s.", directory)

    def load(name: str) -> CompiledUpdate:
        return _load(_file(directory, name), digests[name], program.devices)

    return [by_size({rows: load(name) for rows, name in x.items()}) for x in wanted]


def _load(
    path: epath.Path, digest: str, devices: Sequence[jax.Device]
) -> CompiledUpdate:
    contents = read_file(path)
    if (found := sha256_of(contents)) != digest:
        about = path.parent / _ABOUT
        raise differs(path, found, digest, recorded_in=about, remedy=_REMEDY)
    payload, in_tree, out_tree = pickle.loads(contents)
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
        "code": versions.of_code(),
    }


def _check(directory: epath.Path, found: Mapping[str, Any], program: Program) -> None:
    expected = json.loads(json.dumps(facts(program)))
    before = {name: found.get(name) for name in expected}
    changed = changed_fields(before, expected)
    if changed:
        raise ValueError(
            f"The compiled steps of {directory / _ABOUT} do not match this run: "
            f"{_described(changed, found, expected)}: {_REMEDY}."
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
            tree = dict(enumerate(tree)).get(int(key)) if key.isdigit() else None
        else:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _file(directory: epath.Path, name: str) -> epath.Path:
    return directory / f"{name}.executable"


def _places(devices: Sequence[jax.Device]) -> str:
    """Returns a digest of the coordinates and the process of each device."""
    places = [(getattr(d, "coords", None), d.process_index) for d in devices]
    return hashlib.sha256(repr(places).encode()).hexdigest()[:16]


def _libtpu(devices: Sequence[jax.Device]) -> str:
    return versions.of("libtpu") if devices[0].platform == "tpu" else "not used"

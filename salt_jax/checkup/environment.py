"""The environment of the checking processes: the devices of this host alone."""

from __future__ import annotations

import glob
import pathlib
from collections.abc import Mapping

from salt_jax.processes.tpu_slices import gke_tpu, tpu_vm

# How libtpu is told which chips of a host one process has, by their number.
_BOUNDS = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}


def environment_for(
    folder: pathlib.Path, given: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Returns the variables of a process that checks, and what they say of the host.

    A host of a TPU pod would wait for the others: it is given its own chips as a slice
    of one host. Programs are cached, so that a later check does not compile them again.

    Args:
      folder: Where programs are cached, unless `given` names another place.
      given: The variables of this process.

    Raises:
      ValueError: this is one host of several, with a number of chips that is unknown.
    """
    variables = dict(given)
    variables.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "xla"))
    chips = len(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    if not chips:
        return variables, "one host"
    cluster = gke_tpu(given) or tpu_vm(given)
    if cluster is None or cluster.count == 1:
        return variables, "one host"
    if chips not in _BOUNDS:
        raise ValueError(
            f"This is a host of a TPU pod with {chips} chips, and only hosts with "
            f"{', '.join(map(str, _BOUNDS))} are known: check a slice of one host."
        )
    variables |= {
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": _BOUNDS[chips],
        "TPU_VISIBLE_DEVICES": ",".join(map(str, range(chips))),
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    for name in ("TPU_PROCESS_ADDRESSES", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        variables.pop(name, None)
    return variables, f"one host of {cluster.count}, with its {chips} chips alone"

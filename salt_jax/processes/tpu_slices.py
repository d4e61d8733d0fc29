"""What GKE's environment or a TPU VM's metadata server says about TPU slices."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

from salt_jax.processes.cluster import Cluster, Variables, number

TPU_PORT = 8482  # No launcher of TPUs names a port. Any free one would do.


def gke_tpu(environment: Variables) -> Cluster | None:
    """Reads what GKE sets in each container of a TPU slice, or of several slices."""
    names = "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"
    listed = next((environment[x] for x in names if environment.get(x)), None)
    if listed is None:
        return None
    workers = [address.strip() for address in listed.split(",")]
    return _slices(
        "GKE",
        workers,
        worker=number("TPU_WORKER_ID", environment["TPU_WORKER_ID"]),
        multislice=environment,
        port=environment.get("JAX_COORDINATOR_PORT"),
    )


def tpu_vm(environment: Variables) -> Cluster | None:
    """Asks the metadata server of a TPU VM; None if there is none.

    Raises:
      ValueError: the metadata cannot be read.
    """
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    worker = _metadata(server, "agent-worker-number")
    endpoints = _metadata(server, "worker-network-endpoints")
    if worker is None or endpoints is None:
        return None
    # Entries are addresses, or name:id:address.
    workers = [entry.rpartition(":")[2] for entry in endpoints.split(",")]
    pairs = re.findall(
        r"^\s*(\w+):\s*'?([^'\n]*)'?\s*$", _tpu_env(server), re.MULTILINE
    )
    return _slices(
        "TPU VM",
        workers,
        worker=number("agent-worker-number", worker),
        multislice={**dict(pairs), **environment},
        port=environment.get("JAX_COORDINATOR_PORT"),
    )


def _slices(
    kind: str,
    workers: list[str],
    *,
    worker: int,
    multislice: Variables,
    port: str | None,
) -> Cluster:
    """Returns the processes of `workers` in each slice, ordered by slice."""
    slices = number("MEGASCALE_NUM_SLICES", multislice.get("MEGASCALE_NUM_SLICES") or 1)
    this = number("MEGASCALE_SLICE_ID", multislice.get("MEGASCALE_SLICE_ID") or 0)
    first = multislice.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
    return Cluster(
        kind=kind if slices == 1 else f"{kind}, slice {this} of {slices}",
        coordinator=f"{first.split(':')[0]}:{port or TPU_PORT}",
        count=len(workers) * slices,
        index=worker + this * len(workers),
    )


def _tpu_env(server: str) -> str:
    return _metadata(server, "tpu-env") or ""


def _metadata(server: str, name: str) -> str | None:
    """Returns an attribute of this machine; None if there is no such attribute."""
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{name}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read(1 << 20).decode()
    except (urllib.error.URLError, OSError):
        return None

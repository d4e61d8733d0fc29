"""What a launcher's environment says about the processes that it started.

Each kind of cluster has a function that reads the environment and returns a `Cluster`,
or None if the environment is of another kind. A TPU VM says nothing in its environment;
its metadata server is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from salt_jax.processes.cluster import Cluster, Variables, number
from salt_jax.processes.tpu_slices import gke_tpu, tpu_vm

# Above the ports that Linux gives to outgoing connections.
FIRST_PORT, NUM_PORTS = 61440, 4096


def find(environment: Variables | None = None) -> Cluster:
    """Returns the cluster that this process was started in.

    Args:
      environment: Environment variables; default: those of this process.

    Raises:
      ValueError: there is no sign of a cluster, or what it says cannot be read.
    """
    environment = os.environ if environment is None else environment
    found = launched(environment) or tpu_vm(environment)
    if found is None:
        raise ValueError(
            "--distributed=auto found no cluster: no TPU_WORKER_HOSTNAMES (GKE), "
            "SLURM_STEP_NODELIST (srun), OMPI_COMM_WORLD_SIZE (mpirun), nor a TPU VM's "
            "metadata server. Give --distributed=HOST:PORT,COUNT,INDEX, or leave it "
            "out to run in one process."
        )
    return found


def launched(environment: Variables) -> Cluster | None:
    """Returns the cluster that the environment variables name, or None.

    Raises:
      ValueError: a variable is missing, or cannot be read.
    """
    for kind, reader in _READERS.items():
        try:
            found = reader(environment)
        except KeyError as error:
            raise ValueError(
                f"{kind}: the environment lacks {error}; give "
                "--distributed=HOST:PORT,COUNT,INDEX."
            ) from error
        if found is not None:
            return found
    return None


def slurm(environment: Variables) -> Cluster | None:
    """Reads what srun sets in each task of a job step."""
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    read = lambda name: number(name, environment[name])
    job, step = read("SLURM_JOB_ID"), read("SLURM_STEP_ID")
    port = environment.get(
        "JAX_COORDINATOR_PORT", FIRST_PORT + (job + step) % NUM_PORTS
    )
    # "2(x3),1": two tasks on each of three nodes, one on the last.
    tasks = re.findall(r"\d+(?=\(|,|$)", environment["SLURM_STEP_TASKS_PER_NODE"])
    bound = "SLURM_GPUS_PER_TASK" in environment  # A task sees its own devices only.
    return Cluster(
        kind="Slurm",
        coordinator=f"{_first_host(environment['SLURM_STEP_NODELIST'])}:{port}",
        count=read("SLURM_STEP_NUM_TASKS"),
        index=read("SLURM_PROCID"),
        device=None if bound or set(tasks) == {"1"} else read("SLURM_LOCALID"),
    )


def open_mpi(environment: Variables) -> Cluster | None:
    """Reads what mpirun sets in each process."""
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    read = lambda name: number(name, environment[name])
    alone = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return Cluster(
        kind="Open MPI",
        coordinator=_mpi_coordinator(environment),
        count=read("OMPI_COMM_WORLD_SIZE"),
        index=read("OMPI_COMM_WORLD_RANK"),
        device=None if alone else read("OMPI_COMM_WORLD_LOCAL_RANK"),
    )


_READERS: Mapping[str, Callable[[Variables], Cluster | None]] = {
    "GKE": gke_tpu,
    "Slurm": slurm,
    "Open MPI": open_mpi,
}


def _first_host(nodes: str) -> str:
    """Returns the first host of Slurm's list: "a1" of "a[1-3,7],b", "a" of "a,b"."""
    prefix, bracket, rest = nodes.partition("[")
    if "," in prefix or not bracket:
        return prefix.split(",")[0]
    ranges, _, after = rest.partition("]")
    return prefix + re.split("[-,]", ranges)[0] + after.split(",")[0]


def _mpi_coordinator(environment: Variables) -> str:
    """Returns where process 0 listens: on the host of mpirun, if Open MPI names it."""
    if given := environment.get("JAX_COORDINATOR_ADDRESS"):
        return given
    # Open MPI 4: "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911". Version 5 has none.
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    found = re.match(r"(\d+)\.\d+;tcp6?://\[?([^,\]]+?)(?:[,\]]|:\d+$)", uri)
    if found is None:
        raise KeyError("JAX_COORDINATOR_ADDRESS=HOST:PORT of process 0")
    job = int(found[1]) // 4096  # Open MPI's job ids are multiples of 4096.
    return f"{found[2]}:{FIRST_PORT + job % NUM_PORTS}"

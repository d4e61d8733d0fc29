"""Each launcher's environment names the processes; stand-ins for each."""

import functools
import http.server
import threading

import pytest

from salt_jax.processes import cluster, launchers
from salt_jax.processes.cluster import Cluster

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],login",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {"TPU_WORKER_HOSTNAMES": "job-0-0.svc,job-0-1.svc", "TPU_WORKER_ID": "1"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.svc:8080",
    "MEGASCALE_NUM_SLICES": "3",
    "MEGASCALE_SLICE_ID": "2",
}
TWO_ON_A_NODE = {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
OWN_GPUS = {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_GPUS_PER_TASK": "1"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        (SLURM, ("Slurm", "gpu07:61444", 4, 2, None)),
        (SLURM | {"SLURM_STEP_NODELIST": "a,b[1-2]"}, ("Slurm", "a:61444", 4, 2, None)),
        (SLURM | TWO_ON_A_NODE, ("Slurm", "gpu07:61444", 4, 2, 1)),
        (SLURM | OWN_GPUS, ("Slurm", "gpu07:61444", 4, 2, None)),
        (SLURM | {"JAX_COORDINATOR_PORT": "99"}, ("Slurm", "gpu07:99", 4, 2, None)),
        (MPI, ("Open MPI", "10.96.0.1:62624", 2, 1, None)),
        (
            MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            ("Open MPI", "10.96.0.1:62624", 2, 1, 0),
        ),
        (
            MPI | {"JAX_COORDINATOR_ADDRESS": "head:99"},
            ("Open MPI", "head:99", 2, 1, None),
        ),
        (GKE, ("GKE", "job-0-0.svc:8482", 2, 1, None)),
        (GKE | SLICES, ("GKE, slice 2 of 3", "job-0-0.svc:8482", 6, 5, None)),
    ],
)
def test_a_launcher_names_the_coordinator_the_processes_and_this_one(
    environment, expected
):
    found = launchers.find(environment)
    numbers = (found.count, found.index, found.device)
    assert (found.kind, found.coordinator, *numbers) == expected


class Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server of a TPU VM."""

    def __init__(self, attributes, *arguments):
        self._attributes = attributes
        super().__init__(*arguments)

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        asked = self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if asked and name in self._attributes else 404)
        self.end_headers()
        self.wfile.write(self._attributes.get(name, "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata():
    attributes = {}
    handler = functools.partial(Metadata, attributes)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address
        yield {"GCE_METADATA_IP": f"{host}:{port}"}, attributes
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "endpoints", ["10.0.0.5,10.0.0.6", "a:1:10.0.0.5,b:2:10.0.0.6"]
)
def test_a_tpu_vm_asks_its_metadata_server(endpoints, metadata):
    environment, attributes = metadata
    attributes |= {"agent-worker-number": "1", "worker-network-endpoints": endpoints}
    assert launchers.find(environment) == Cluster(
        kind="TPU VM", coordinator="10.0.0.5:8482", count=2, index=1
    )


def test_slices_of_tpu_vms_are_in_the_metadata(metadata):
    environment, attributes = metadata
    attributes |= {
        "agent-worker-number": "0",
        "worker-network-endpoints": "10.0.0.7,10.0.0.8",
        "tpu-env": "ZONE: 'x'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.5:8080'\n",
    }
    found = launchers.find(environment)
    assert (found.coordinator, found.count, found.index) == ("10.0.0.5:8482", 4, 2)


def test_without_a_cluster_auto_is_refused_and_says_what_it_looked_for(metadata):
    environment, _ = metadata
    with pytest.raises(ValueError, match="TPU_WORKER_HOSTNAMES.*SLURM_.*OMPI_.*TPU VM"):
        launchers.find(environment)


@pytest.mark.parametrize(
    "environment, named",
    [
        (GKE | {"TPU_WORKER_ID": "one"}, "TPU_WORKER_ID"),
        (GKE | {"TPU_WORKER_ID": "2"}, "process 2 of 2"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "SLURM_PROCID"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": ""}, "JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_what_an_environment_lacks_is_named(environment, named):
    with pytest.raises(ValueError, match=named):
        launchers.find(environment)


@pytest.mark.parametrize("text", ["", "a:1", "a:1,2", "a:1,2,x", "a:1,2,2", "a,2,0"])
def test_what_is_not_host_port_count_index_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT|process 2"):
        cluster.parse(text)

"""The scripts of launch/ that start training, with stand-ins for what they call."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import kubernetes_validate
import pytest
import yaml

from salt_jax.commands import parser

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
OPTIONS = ["--gin_file=gin/tiny_slm.gin", "--workdir=gs://it's/run"]
PLACES = {
    "TPU": "pod", "ZONE": "zone", "PROJECT": "project", "CLUSTER": "cluster",
    "TPU_TYPE": "v5litepod-256", "IMAGE": "registry/salt_jax", "SLICES": "4",
}  # fmt: skip


def launch(script, *arguments, **variables):
    """Runs a script to its end."""
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=os.environ | PLACES | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def stand_in(folder, name, *codes):
    """Writes a program that notes its arguments and ends with `codes` in turn."""
    program = folder / name
    program.write_text(
        f'#!/bin/bash\necho "{name} $*" >> {folder}/asked\n'
        f"codes=({' '.join(map(str, codes))})\n"
        f"exit ${{codes[$(grep -c ^{name} {folder}/asked)-1]:-0}}\n"
    )
    program.chmod(0o755)
    return program


def asked(folder):
    return (folder / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("tpu_vm.sh", []),
        ("tpu_pod.sh", ["start"]),
        ("gke_xpk.sh", ["name"]),
        ("slurm.sbatch", []),
    ],
)
def test_a_dry_run_prints_a_train_command_with_the_options_as_given(script, arguments):
    done = launch(script, "--dry_run", *arguments, *OPTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    words = re.search(r"(train|tpu_vm.sh) .*", line.replace("'train'", "train"))[0]
    if ">>" in words:
        words = words.split(">>")[0]
    if script == "slurm.sbatch":  # `echo` does not quote.
        assert words.split()[-2:] == OPTIONS
        return
    _, *options = shlex.split(words)
    _, parsed = parser.parse(["train", *options])
    assert list(parsed.gin_file) == ["gin/tiny_slm.gin"]
    assert parsed.workdir == "gs://it's/run"
    several = script != "tpu_vm.sh"
    assert (parsed.distributed == "auto") == several


@pytest.mark.parametrize("action", ["install", "log", "stop"])
def test_a_pod_is_asked_by_documented_flags(action):
    done = launch("tpu_pod.sh", "--dry_run", action)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert re.match("gcloud compute tpus tpu-vm (ssh|scp) ", line)
        assert "--zone=zone --project=project --worker=" in line


def test_what_is_not_said_is_asked_for():
    assert "set TPU" in launch("tpu_pod.sh", "log", TPU="").stderr
    done = launch("tpu_pod.sh", "sing")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set IMAGE" in launch("gke_jobset.sh", "name", IMAGE="").stderr


def test_the_job_of_a_job_set_is_valid_and_only_code_2_ends_the_set():
    done = launch("gke_jobset.sh", "name", *OPTIONS)
    assert done.returncode == 0, done.stderr
    job_set = yaml.safe_load(done.stdout)
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (slices,) = job_set["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
    job["spec"] = slices["template"]["spec"]
    kubernetes_validate.validate(job, "1.31", strict=True)
    assert slices["replicas"] == 4
    spec = slices["template"]["spec"]
    assert spec["backoffLimit"] == 0
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    (container,) = spec["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert container["args"] == ["train", "--distributed=auto", *OPTIONS]
    policy = job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 100
    assert policy["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


LISTED = """\
# prepare
salt_jax prepare --gin_file=prepare.gin
# baseline/seed-0/run after prepare
salt_jax train --gin_file=baseline.gin '--gin.A=it is # not a comment'
# slm/seed-0/run after prepare
salt_jax train --gin_file=slm.gin
# slm/seed-0/export after slm/seed-0/run
salt_jax export --gin_file=slm.gin
# scores/seed-0/scores after prepare slm/seed-0/export
salt_jax score --gin_file=score.gin
# salt/seed-0/run after prepare slm/seed-0/export scores/seed-0/scores
salt_jax train --gin_file=salt.gin
# step_times/salt_vs_baseline.json
salt_jax time_steps --gin_file=salt.gin
"""
WAVES = [
    ["prepare", "step_times/*"],
    ["baseline/seed-0/*", "slm/seed-0/*"],
    ["scores/seed-0/*"],
    ["salt/seed-0/*"],
]
OF_LAB = ["--gin_file=gin/lab_tiny.gin", "--gin.lab.Lab.root='gs://a b'"]


@pytest.fixture
def lists(tmp_path):
    """A stand-in for salt_jax, whose `lab --list` prints `LISTED`."""
    (tmp_path / "listed").write_text(LISTED)
    program = tmp_path / "lists"
    program.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/asked\ncat {tmp_path}/listed\n'
    )
    program.chmod(0o755)
    return {"SALT_JAX": str(program)}


def test_a_laboratory_is_an_array_of_slurm_for_each_wave(lists, tmp_path):
    done = launch(
        "lab_slurm.sh", "--dry_run", *OF_LAB, SBATCH="--partition=gpu -N 2", **lists
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert asked(tmp_path) == ["lab", *OF_LAB, "--list"]
    *waves, last = done.stdout.splitlines()
    for number, (line, patterns) in enumerate(zip(waves, WAVES, strict=True)):
        begin, _, end = line.partition("launch/lab_slurm.sh ")
        assert end == " ".join([*patterns, "--", *OF_LAB])
        assert (
            f"--partition=gpu -N 2 {after(number)}--array=0-{len(patterns) - 1}"
            in begin
        )
    assert last.endswith(f"-N 2 {after(4)}launch/lab_slurm.sh -- {' '.join(OF_LAB)}")


def after(number):
    return f"--dependency=afterany:JOBS_OF_WAVE_{number - 1} " if number else ""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_job_of_slurm_runs_its_pattern_and_is_queued_again_if_stopped(code, tmp_path):
    (tmp_path / "bin").mkdir()
    stand_in(tmp_path, "python", code, 0).rename(tmp_path / "bin/python")
    stand_in(tmp_path, "scontrol")
    done = launch(
        *("lab_slurm.sh", *WAVES[1], "--", *OF_LAB),
        **{"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "HOSTS": "srun -l"},
        **{"VENV": str(tmp_path), "PAUSE": "0", "SLURM_SUBMIT_DIR": str(ROOT)},
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    line = "python -m salt_jax.main lab " + " ".join(OF_LAB)
    line += " --hosts=srun -l --only=slm/seed-0/*"
    # It runs again here first: nothing has asked this job to stop.
    assert asked(tmp_path) == [line] * (2 if code == 75 else 1)
    assert done.returncode == (1 if code == 1 else 0)


def test_a_laboratory_is_a_valid_job_of_gke_for_each_run(lists):
    done = launch("lab_gke.sh", "lab-x", *OF_LAB, **lists)
    assert (done.returncode, done.stderr) == (0, "")
    jobs = list(yaml.safe_load_all(done.stdout))
    assert len(jobs) == 6
    for number, job in enumerate(jobs, 1):
        kubernetes_validate.validate(job, "1.31", strict=True)
        assert job["metadata"]["name"] == f"lab-x-{number}"
        wave = int(job["metadata"]["labels"]["wave"])
        (container,) = job["spec"]["template"]["spec"]["containers"]
        command, *options, only = container["args"]
        assert (command, options) == ("lab", OF_LAB)
        assert only.removeprefix("--only=") in WAVES[wave]
    one = launch("lab_gke.sh", "lab-x", *OF_LAB, WAVE="2", **lists).stdout
    assert list(yaml.safe_load_all(one)) == [jobs[4]]
    assert "set IMAGE" in launch("lab_gke.sh", "lab-x", IMAGE="", **lists).stderr


def test_what_lab_refuses_queues_nothing(tmp_path):
    refuses = str(stand_in(tmp_path, "refuses", 2, 2))
    for script, first in (("lab_slurm.sh", "--dry_run"), ("lab_gke.sh", "lab-x")):
        done = launch(script, first, *OF_LAB, SALT_JAX=refuses)
        assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    "codes, code, times",
    [([0], 0, 1), ([2], 2, 1), ([75, 75, 0], 0, 3), ([1, 75, 1, 1], 1, 4), ([9], 9, 1)],
)
def test_a_command_runs_until_it_is_done(codes, code, times, tmp_path):
    program = stand_in(tmp_path, "salt", *codes, 5)
    done = launch("until_done.sh", str(program), "x", RETRIES="2", PAUSE="0")
    assert (done.returncode, len(asked(tmp_path))) == (code, times)


@pytest.mark.parametrize("sent", ["TERM", "HUP", "USR1", "INT"])
def test_a_signal_is_passed_on_and_ends_the_tries(sent, tmp_path):
    program = tmp_path / "salt"
    program.write_text(
        f"trap 'echo $1 >> {tmp_path}/asked; exit 75' TERM HUP USR1\n"
        f"echo began >> {tmp_path}/asked\n"
        "for _ in {1..200}; do sleep 0.05; done\n"
    )
    # What a test before this one ignores would be inherited, and bash cannot trap it.
    command = ["env", "--default-signal=HUP,INT", "bash"]
    command += [str(LAUNCH / "until_done.sh"), "bash", str(program)]
    with subprocess.Popen(command, env=os.environ | {"PAUSE": "0"}) as process:
        while not (tmp_path / "asked").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(getattr(signal, f"SIG{sent}"))
        assert process.wait(30) == 75
    assert asked(tmp_path)[0] == "began" and len(asked(tmp_path)) == 2


def test_the_code_of_a_command_that_ends_as_a_signal_comes_is_not_lost(tmp_path):
    program = tmp_path / "salt"
    program.write_text("trap : TERM\nkill -TERM $PPID\nexit 75\n")
    script = (
        f"source {LAUNCH}/until_done.sh\n"
        f"for _ in {{1..10}}; do stopped=''; until_done bash {program}; echo $?; done"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["75"] * 10


def test_a_job_that_was_stopped_is_queued_again_and_a_refused_one_is_not(tmp_path):
    stand_in(tmp_path, "srun", 75, 2)
    stand_in(tmp_path, "scontrol")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert launch("slurm.sbatch", *OPTIONS, **path).returncode == 75
    assert asked(tmp_path)[1:] == ["scontrol requeue 7"]
    assert launch("slurm.sbatch", *OPTIONS, **path).returncode == 2
    assert len(asked(tmp_path)) == 3


STEPS = "prepare train export export score select train evaluate evaluate export"


def test_a_pipeline_runs_its_commands_in_order_and_those_of_hosts_on_hosts(tmp_path):
    salt = stand_in(tmp_path, "salt", 0, 75)
    hosts = stand_in(tmp_path, "hosts")
    hosts.write_text('#!/bin/bash\n"$@" --on_hosts\n')
    variables = {"SALT_JAX": str(salt), "HOSTS": str(hosts), "PAUSE": "0"}
    assert launch("pipeline.sh", "gs://bucket/x", **variables).returncode == 0
    lines = [line.split() for line in asked(tmp_path)]
    names = [words[1] for words in lines]
    assert names == ["prepare", "train", *STEPS.split()[1:]]
    alone = [words[1] for words in lines if words[-1] != "--on_hosts"]
    assert alone == ["prepare", "select"]
    for _, *words in lines:
        parser.parse([word for word in words if word != "--on_hosts"])


def test_a_pipeline_stops_where_a_command_is_refused(tmp_path):
    salt = stand_in(tmp_path, "salt", 0, 0, 2)
    done = launch("pipeline.sh", str(tmp_path), SALT_JAX=str(salt))
    assert (done.returncode, len(asked(tmp_path))) == (2, 3)
    assert launch("pipeline.sh", SALT_JAX=str(salt)).returncode != 0


def test_the_image_is_made_of_what_is_here():
    text = (LAUNCH / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)
    for extra in re.findall(r"EXTRA=([\w,]+)", text):
        assert all(
            f'"{x}": ' in (ROOT / "setup.py").read_text() for x in extra.split(",")
        )


def test_the_shell_checker_finds_nothing():
    scripts = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
    # Unquoted words of gin files and folders, which have no spaces.
    command = ["shellcheck", "--shell=bash", "--exclude=SC2206,SC2046", *scripts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

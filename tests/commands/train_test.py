import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import sentencepiece

from salt_jax.main import main
from salt_jax.telemetry.metric_writer import read_metrics
from tests import command_files, runs


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["TEACHER='/nowhere/slm'"], "No export at /nowhere/slm; make one with"),
        (["SCORES='/nowhere/scores'"], "No scores at /nowhere/scores"),
        (["SEQ_LEN=32"], "prepared with seq_len=16, not 32; a longer one"),
        (["BATCH_SIZE=6"], "batch_size=6 does not divide into 4 parts"),
        (["partitioning.MeshShape.model=3"], "8 devices"),
        (["llm/model.TransformerConfig.mlp_dim=1_999_999_998"], "GiB"),
        (["DATA='/nowhere'"], "No prepared data at /nowhere"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(
    overrides, said, files, refused, tmp_path
):
    assert said in refused(*command_files.salt(files, tmp_path / "run", *overrides))
    assert not list(tmp_path.rglob("checkpoints/*/*"))


def test_a_teacher_of_another_vocabulary_is_refused(files, refused, tmp_path):
    text = tmp_path / "text.txt"
    lines = ["the small model helps a large one first and then it leaves"] * 20
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "other"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=9,
    )
    runs.make_teacher(
        tmp_path / "teacher",
        model=command_files.TEACHER,
        vocabulary=tmp_path / "other.model",
    )
    override = f"TEACHER='{tmp_path}/teacher'"
    line = refused(*command_files.salt(files, tmp_path / "run", override))
    assert "was trained with the vocabulary" in line and "Use one vocabulary" in line
    evaluation = [f"--gin_file={files}/slm.gin", f"--workdir={tmp_path}/run"]
    line = refused("evaluate", *evaluation, f"--export={tmp_path}/teacher")
    assert "was trained with the vocabulary" in line


def corrupted(files, tmp_path):
    export = shutil.copytree(files / "teacher", tmp_path / "teacher")
    arrays = [path for path in (export / "params").rglob("d/*") if path.is_file()]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 64):
        content[place] ^= 0xFF
    largest.write_bytes(content)
    return export


@pytest.mark.slow
def test_a_corrupt_teacher_is_refused(files, tmp_path, capsys):
    export = corrupted(files, tmp_path)
    code = main(command_files.salt(files, tmp_path / "run", f"TEACHER='{export}'"))
    *_, line = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"salt_jax: The export at {export} is damaged: ")


MY_RAMPS = """
import dataclasses
import jax.numpy as jnp

@dataclasses.dataclass(frozen=True)
class Ramp:
    to: float
    steps: int = 2

    def __call__(self, step):
        return self.to * jnp.minimum(jnp.asarray(step) / self.steps, 1.0)
"""


@pytest.mark.slow
def test_a_users_schedules_warm_up_the_teachers_weight_and_the_learning_rate(
    files, tmp_path, monkeypatch
):
    (tmp_path / "ramps_of_user.py").write_text(MY_RAMPS)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [
        "KD_SCHEDULE=@ramps_of_user.Ramp()",
        "KD_SCHEDULE/ramps_of_user.Ramp.to=0.5",
        "optimizer.AdamW.learning_rate=@ramps_of_user.Ramp()",
        "OPTIMIZER/ramps_of_user.Ramp.to=1e-3",
        "N_KD=6",
    ]
    imported = ["--gin_import=ramps_of_user"]
    assert (
        main([*command_files.salt(files, tmp_path / "run", *overrides), *imported]) == 0
    )
    records = [r for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert [r["kd_weight"] for r in records] == [0.0, 0.25, 0.5, 0.5, 0.5, 0.5]
    rates = [r["learning_rate"] for r in records]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3])


def test_overrides_of_both_kinds_reach_the_run(trained, refused):
    named, _ = trained
    line = refused(*named, "--gin.SEED=5", "--gin_bindings=WARMUP_STEPS = 3")
    changed = "optimizer.learning_rate.warmup_steps, seed"
    assert f"started with other values of {changed}: use another" in line
    assert "--accept_change=optimizer.learning_rate.warmup_steps" in line


def test_a_complete_run_says_so(trained, capsys):
    named, workdir = trained
    assert main(named) == 0
    assert f"Complete at step 6: {workdir}." in capsys.readouterr().err


def test_a_complete_run_has_no_steps_to_trace(trained, refused):
    named, _ = trained
    line = refused("train", *named, "--profile=1:2")
    assert "traces steps 2 to 3, but this run is complete at step 6: " in line


def test_what_was_run_is_in_the_workdir(trained):
    _, workdir = trained
    assert "TOTAL_STEPS = 6" in (workdir / "config.gin").read_text()
    assert json.loads((workdir / "experiment.json").read_text())["batch_size"] == 8
    assert [r["step"] for r in read_metrics(workdir) if "loss" in r] == list(
        range(1, 7)
    )


# No file may grow past a limit: what a full disk does to the arrays' files.
ON_A_FULL_DISK = """
import resource, signal, sys
from salt_jax.main import main
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.training import saving

real = Checkpointer.begin

def begin(self, step, *rest):
    if step == 4:
        self.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return real(self, step, *rest)

Checkpointer.begin = begin
saving.DELAYS = (0.1, 0.1)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_and_the_last_checkpoint_survives(
    files, tmp_path
):
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, *named], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    # Threads that were writing may complain that nobody listens any more.
    assert "salt_jax/main.py" not in done.stderr
    lines = done.stderr.splitlines()
    (line,) = [line for line in lines if line.startswith("salt_jax: ")]
    assert line.startswith("salt_jax: Saving the checkpoint of step 6 in ")
    assert "the last good one is of step 2 (" in line and re.search(
        r"was tried [234] times", line
    )
    # Noticed at the next step, or by the last save if that is so soon.
    (noticed,) = [x for x in lines if " Saving the checkpoint of step 4" in x]
    assert "trying again" in noticed.lower()
    assert main(named) == 0
    steps = [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert steps == list(range(1, 7))


def begin_until(line, *arguments):
    """Returns a process of salt_jax once it has written `line` on stderr."""
    process = subprocess.Popen(
        command_files.command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for said in process.stderr:
        if line in said:
            break
    return process


def long_run(files, workdir):
    return [f"--gin_file={files}/baseline.gin", f"--workdir={workdir}",
            "--gin.TOTAL_STEPS=4000", "--gin.config.Experiment.save_every=4000",
            "--gin.config.Validation.every=4000"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1], 75), ([signal.SIGINT], 130)],
)
def test_a_signal_saves_and_the_same_command_goes_on(signals, code, files, tmp_path):
    named = long_run(files, tmp_path / "run")
    with begin_until("train: ", *named) as running:
        for signum in signals:
            running.send_signal(signum)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, ""), err
    *_, line = err.splitlines()
    step = int(re.fullmatch(r"salt_jax: Stopped at step (\d+), and saved.*", line)[1])
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    fewer = [*named, f"--gin.TOTAL_STEPS={step + 1}", *_accepted(TOTAL_STEPS)]
    assert main(fewer) == 0
    assert [r["step"] for r in read_metrics(tmp_path / "run")][-1] == step + 1


@pytest.mark.slow
@pytest.mark.parametrize("line", ["Stage 'standard' reads", "Compiling"])
def test_a_signal_before_the_first_step_ends_the_process(line, files, tmp_path):
    with begin_until(line, *long_run(files, tmp_path / "run")) as running:
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 75
    assert "SIGTERM before the first step" in err.splitlines()[-1]
    assert not list((tmp_path / "run").rglob("checkpoints/*"))
    assert not (tmp_path / "run" / ".lock").exists()


TOTAL_STEPS = ("optimizer.learning_rate.total_steps", "stages.0.end_step")


def _accepted(names):
    return [f"--accept_change={name}" for name in names]


@pytest.mark.slow
def test_salt_from_text_to_a_report(files, tmp_path):
    """Every command once, each on what the ones before it made."""
    command_files.write_files(tmp_path)
    runs_of = {
        name: [f"--gin_file={tmp_path}/{name}.gin", f"--workdir={tmp_path}/runs/{name}"]
        for name in ("slm", "salt", "baseline")
    }
    slm = runs_of["slm"]
    for command in (
        ["prepare", f"--gin_file={tmp_path}/prepare.gin"],
        ["train", *slm],
        ["export", *slm, "--step=2", f"--output={tmp_path}/early"],
        ["export", *slm, f"--output={tmp_path}/teacher", "--dtype=bfloat16"],
        ["score", f"--gin_file={tmp_path}/score.gin"],
        *(["train", *runs_of[name]] for name in ("salt", "baseline")),
        *(["evaluate", *named] for named in runs_of.values()),
        ["report", f"--output={tmp_path}/report", f"--scores={tmp_path}/scores",
         *(f"--{name}={tmp_path}/runs/{name}" for name in runs_of)],
    ):  # fmt: skip
        assert main(command) == 0, command
    records = [r for r in read_metrics(tmp_path / "runs" / "salt") if "loss" in r]
    assert [r["stage"] for r in records] == ["distill"] * 3 + ["standard"] * 3
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000

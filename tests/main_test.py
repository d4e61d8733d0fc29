import dataclasses
import json
import logging
import pathlib
import shutil
import signal
import subprocess
import sys

import gin
import numpy as np
import pytest
import sentencepiece

from salt_jax.commands import compare
from salt_jax.main import EXTRA_OF, main
from salt_jax.storage.export import Export
from salt_jax.storage.loaded import LoadedModel
from salt_jax.telemetry.metric_writer import read_metrics
from tests import command_files, runs


@pytest.fixture(autouse=True)
def _as_before():
    """Commands set up logging and gin for their whole process."""
    root, absl = logging.getLogger(), logging.getLogger("absl")
    kept = root.handlers, absl.handlers, absl.propagate, absl.level
    yield
    root.handlers, absl.handlers, absl.propagate, absl.level = kept
    gin.clear_config()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Gin files, and what their first commands make: data, exports and scores."""
    folder = tmp_path_factory.mktemp("files")
    command_files.write_files(folder)
    assert main([f"--gin_file={folder}/prepare.gin"]) == 0
    runs.make_teacher(folder / "teacher", model=TEACHER)
    runs.make_teacher(folder / "early", model=TEACHER)
    assert main(["score", f"--gin_file={folder}/score.gin"]) == 0
    return folder


TEACHER = dataclasses.replace(
    runs.STUDENT, num_layers=1, embed_dim=16, scan_layers=False
)


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """The arguments that name a BASELINE run, and its workdir, complete."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={workdir}"]
    assert main(["train", *named]) == 0
    return named, workdir


@pytest.fixture
def refused(capsys):
    """Runs a command that is refused: returns its one line on stderr."""

    def run(*arguments, code=2):
        capsys.readouterr()
        try:
            found = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            found = stop.code
        out, err = capsys.readouterr()
        assert (found, out) == (code, "")
        (line,) = err.splitlines()
        assert line.startswith("salt_jax: ")
        return line

    return run


def salt(files, workdir, *overrides):
    return [
        f"--gin_file={files}/salt.gin",
        f"--workdir={workdir}",
        *(f"--gin.{name}" for name in overrides),
    ]


# ---- What was typed ---------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--nonsense"], "got --nonsense"),
        (["train", "--gin_file=x", "--nonsense=3"], "train has no option --nonsense;"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--work=x"], "no option --work"),
        (["train", "x", "--gin_file=y"], "'x'"),
        ([], "--gin_file=FILE"),
        (["train"], "Give --gin_file=FILE"),
        (["--gin_file=gin/salt.gin"], "No gin file at 'gin/salt.gin'"),
        (["score", "--gin_file=gin/tiny_slm.gin"],
         "tiny_slm.gin binds Experiment, which can train or select or evaluate or "
         "export or compile or describe; score needs Scoring"),
        (["train", "--gin_file=gin/tiny_score.gin"], "describe; train needs"),
        (["export", "--gin_file=gin/tiny_prepare.gin"], "describe; export needs"),
        (["--gin_file=gin/models/llm_tiny.gin"], "they bind none"),
        (["--gin_file=gin/tiny_slm.gin", "--gin.SEDE=1"], "no effect: SEDE"),
        (["--gin_file=gin/tiny_slm.gin", "--gin_bindings=SEDE = 1"], "effect: SEDE"),
        (["--gin_file=gin/tiny_slm.gin", "--distributed=2"],
         "--distributed=2 is neither auto nor HOST:PORT,COUNT,INDEX"),
        (["--gin_file=gin/tiny_slm.gin", "--profile=5"],
         "--profile=5 is not START:COUNT: give two integers, as in 100:5."),
        (["report"], "required: --baseline, --salt, --slm, --output"),
        (["report", "--baseline=a", "--salt=b"], "required: --slm, --output"),
        (["report", "--baseline=a", "--salt=b", "--slm=c", "--output=d", "--salt=e"],
         "got 1 and 2; compare"),
        (["report", "--baseline=a", "--salt=b", "--slm=c", "--output=d"],
         "No evaluation.json in a"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said, refused):
    assert said in refused(*arguments)


def test_a_file_that_includes_a_missing_one_is_refused_by_name(refused, tmp_path):
    (tmp_path / "mine.gin").write_text("include 'gin/shared/nothing.gin'\n")
    assert "gin/shared/nothing.gin" in refused(f"--gin_file={tmp_path}/mine.gin")


def test_help_is_short_and_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5" in out
    assert len(out.splitlines()) < 40
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    out = capsys.readouterr().out
    assert "--top_p" in out and "--slices_by" not in out


def test_verbose_shows_where_an_error_came_from(capsys):
    assert main(["--gin_file=gin/salt.gin", "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "No gin file at 'gin/salt.gin'" in err


@pytest.mark.slow
def test_a_process_of_its_own_ends_with_the_code_and_without_a_traceback():
    done = command_files.run("--gin_file=gin/salt.gin")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("salt_jax: No gin file at 'gin/salt.gin'")


@pytest.mark.parametrize("package", EXTRA_OF)
def test_a_package_of_an_extra_that_is_missing_is_named_with_its_extra(
    package, refused, monkeypatch
):
    def run(options):
        raise ModuleNotFoundError(name=f"{package}.part")

    monkeypatch.setattr(compare, "run", run)
    line = refused("compare", "--baseline=one", "--salt=two")
    assert package in line and f"'.[{EXTRA_OF[package]}]'" in line
    assert f'"{EXTRA_OF[package]}": ' in pathlib.Path("setup.py").read_text()


def test_a_missing_package_that_no_extra_has_is_a_defect(monkeypatch):
    def run(options):
        raise ModuleNotFoundError(name="jax")

    monkeypatch.setattr(compare, "run", run)
    with pytest.raises(ModuleNotFoundError):
        main(["compare", "--baseline=one", "--salt=two"])


# ---- What cannot be trained -------------------------------------------------


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["TEACHER='/nowhere/slm'"], "No export at /nowhere/slm; make one with"),
        (["SCORES='/nowhere/scores'"], "No scores at /nowhere/scores"),
        (["SEQ_LEN=32"], "prepared with seq_len=16, not 32; a longer one"),
        (["BATCH_SIZE=6"], "batch_size=6 does not divide into 4 parts"),
        (["partitioning.MeshShape.model=3"], "8 devices"),
        (["llm/model.TransformerConfig.mlp_dim=99_999_999_998"], "GiB"),
        (["DATA='/nowhere'"], "No prepared data at /nowhere"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(
    overrides, said, files, refused, tmp_path
):
    assert said in refused(*salt(files, tmp_path / "run", *overrides))
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
        tmp_path / "teacher", model=TEACHER, vocabulary=tmp_path / "other.model"
    )
    override = f"TEACHER='{tmp_path}/teacher'"
    line = refused(*salt(files, tmp_path / "run", override))
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
    code = main(salt(files, tmp_path / "run", f"TEACHER='{export}'"))
    *_, line = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"salt_jax: The export at {export} is damaged: ")


def selecting(files, output, *overrides):
    return ["select", *salt(files, output / "run", *overrides), f"--output={output}"]


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
    assert main([*salt(files, tmp_path / "run", *overrides), *imported]) == 0
    records = [r for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert [r["kd_weight"] for r in records] == [0.0, 0.25, 0.5, 0.5, 0.5, 0.5]
    rates = [r["learning_rate"] for r in records]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3])


def test_select_shows_what_training_would_read(files, tmp_path, capsys):
    assert main(selecting(files, tmp_path / "out", "KEEP_FRACTION=0.25")) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"The selection is shown in {tmp_path}/out/selection.html."
    (stage,) = json.loads((tmp_path / "out/selection.json").read_text())["stages"]
    assert out[:-1] == [f"Stage 'distill': {line}" for line in stage["warnings"]]
    assert stage["kept"] == round(0.25 * stage["scored"])
    assert not (tmp_path / "out/run").exists()


def test_a_selection_is_shown_in_the_workdir_unless_told_otherwise(files, tmp_path):
    assert main(["select", *salt(files, tmp_path / "run")]) == 0
    assert (tmp_path / "run/selection/selection.html").is_file()


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["SCORES='/nowhere/scores'"], "No scores at /nowhere/scores"),
        (["SCORE='median_k7_zeros'"], "have no column 'median_k7_zeros' to rank by"),
        (["KEEP_FRACTION=2"], "keep_fraction must be in (0, 1], got 2"),
        (["RANKING=@ranking.PerplexityBand()", "BAND='best'"], "band must be one of"),
        (["SELECTION=None"], "none of ['distill', 'standard'] has a Selection"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    overrides, said, files, refused, tmp_path
):
    assert said in refused(*selecting(files, tmp_path / "out", *overrides))
    assert not (tmp_path / "out").exists()


def test_scores_of_another_dataset_are_refused(files, refused, tmp_path):
    data = f"DATA='{tmp_path}/data'"
    other = [f"--gin_file={files}/prepare.gin", f"--gin.{data}"]
    assert main([*other, "--gin.prepare.Preparation.seed=5"]) == 0
    line = refused(*salt(files, tmp_path / "run", data))
    assert f"The scores {files}/scores are of the dataset" in line


# ---- What was trained -------------------------------------------------------


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


def test_a_run_did_what_was_described(trained, capsys):
    named, workdir = trained
    capsys.readouterr()
    assert main(["describe", named[0], "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    records = [r for r in read_metrics(workdir) if "loss" in r]
    last = records[-1]
    total = {"steps": 6, "tokens": last["tokens"], "flops": last["flops"]}
    assert described["total"] == total
    rates = {r["step"]: r["learning_rate"] for r in records}
    for at in described["schedules"]:
        assert rates[at["step"] + 1] == at["learning_rate"]


def evaluated(named, workdir, *options):
    assert main(["evaluate", *named, *options]) == 0
    return json.loads((workdir / "evaluation.json").read_text())


def test_an_evaluation_is_printed_and_written_and_can_be_repeated(trained, capsys):
    named, workdir = trained
    capsys.readouterr()
    first = evaluated(named, workdir)
    out = capsys.readouterr().out
    total = first["splits"]["val"]["total"]
    assert f"{total['loss']:.4f}" in out and "bits/byte" in out.splitlines()[0]
    assert first["step"] == 6 and set(first["splits"]) == {"val", "test"}
    assert json.loads((workdir / "samples.json").read_text()) == []
    assert evaluated(named, workdir) == first


def test_an_export_evaluates_to_the_numbers_of_its_checkpoint(trained, tmp_path):
    named, workdir = trained
    assert main(["export", *named, f"--output={tmp_path}/out"]) == 0
    direct = evaluated(named, workdir)
    of_export = evaluated(named, workdir, f"--export={tmp_path}/out")
    assert of_export == direct
    early = evaluated(named, workdir, "--step=4")
    assert early["step"] == 4 and early["splits"] != direct["splits"]


def test_an_evaluation_of_other_steps_than_there_are_is_refused(trained, refused):
    named, _ = trained
    assert "No checkpoint of step 5 in" in refused("evaluate", *named, "--step=5")
    line = refused("evaluate", *named, "--step=last")
    assert "--step=last" in line and "latest or best" in line


def test_a_run_that_was_never_started_is_refused(files, refused, tmp_path):
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={tmp_path}/nothing"]
    for command in "evaluate", "export":
        assert "was the run ever started?" in refused(command, *named)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("step", ["4", "best", "latest"])
def test_an_export_is_of_the_step_that_was_asked_for(step, trained, tmp_path):
    named, workdir = trained
    output = tmp_path / "out"
    assert main(["export", *named, f"--step={step}", f"--output={output}"]) == 0
    losses = {
        r["step"]: r["val_loss"] for r in read_metrics(workdir) if "val_loss" in r
    }
    expected = {"4": 4, "best": min(losses, key=losses.get), "latest": 6}[step]
    provenance = Export.open(output).provenance
    assert (provenance["step"], provenance["stage"]) == (expected, "standard")


def test_a_checkpoint_goes_to_hugging_face_and_is_the_same_when_it_comes_back(
    trained, tmp_path, refused
):
    named, workdir = trained
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    (workdir / "export").mkdir(exist_ok=True)  # Another's, and in nobody's way.
    command = ["export", "--format=hf", *named, f"--output={theirs}"]
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert main(["import", f"--from={theirs}", f"--output={back}"]) == 0
    assert main(["export", *named, f"--output={tmp_path}/ours"]) == 0
    embeddings = [
        LoadedModel.open(path).params["params"]["embedding_VD"]
        for path in (tmp_path / "ours", back)
    ]
    np.testing.assert_array_equal(*embeddings)
    assert "Not exporting to" in refused(*command)


def test_what_is_for_few_shot_tasks_is_refused_without_them(trained, refused):
    named, _ = trained
    assert "--limit is for --tasks" in refused("evaluate", *named, "--limit=3")
    two = ("--export=one", "--export=two")
    assert "of one --export at a time" in refused("evaluate", *named, *two)


def test_a_second_export_of_the_same_says_so_and_leaves_it(trained, tmp_path, capsys):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    before = (tmp_path / "out" / "export.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0
    assert f"is exported to {tmp_path}/out" in capsys.readouterr().err
    assert (tmp_path / "out" / "export.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "option, said",
    [("--step=4", "step=6, not 4"), ("--dtype=bfloat16", "dtype='float32', not 'bf")],
)
def test_another_export_at_the_same_place_is_refused(
    option, said, trained, tmp_path, refused
):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    assert said in refused(*command, option)


def test_an_export_of_another_run_at_the_same_place_is_refused(
    trained, tmp_path, refused
):
    named, _ = trained
    command = ["export", *named, f"--output={tmp_path}/out"]
    assert main(command) == 0
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    about["provenance"]["experiment_fingerprint"] = "another"
    (tmp_path / "out" / "export.json").write_text(json.dumps(about))
    assert "experiment_fingerprint='another', not " in refused(*command)


def test_something_else_where_an_export_is_to_go_is_refused(trained, tmp_path, refused):
    named, _ = trained
    (tmp_path / "out").mkdir()
    assert "is no export" in refused("export", *named, f"--output={tmp_path}/out")


# ---- What happens to a process ----------------------------------------------

# No file may grow past a limit: what a full disk does to the arrays' files.
ON_A_FULL_DISK = """
import resource, signal, sys
from salt_jax import train as module
from salt_jax.main import main

real = module.Checkpointer.save

def save(self, step, *rest):
    if step == 4:
        self.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return real(self, step, *rest)

module.Checkpointer.save = save
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
    assert line.startswith("salt_jax: Saving the checkpoint of step 4 in ")
    assert "the last good one is of step 2 (" in line
    assert main(named) == 0
    steps = [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert steps == list(range(1, 7))


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(files, tmp_path):
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={tmp_path}/run",
             "--gin.TOTAL_STEPS=4000", "--gin.config.Experiment.save_every=4000",
             "--gin.config.Validation.every=4000"]  # fmt: skip
    running = subprocess.Popen(
        command_files.command(*named),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        for line in running.stderr:
            if line.startswith("train: "):
                break
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, ""), err
    *_, line = err.splitlines()
    assert line.startswith("Stopped at step ")
    assert line.endswith(", and saved. The same command resumes it.")
    step = int(line.split(",")[0].removeprefix("Stopped at step "))
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    fewer = [*named, f"--gin.TOTAL_STEPS={step + 1}", *_accepted(TOTAL_STEPS)]
    assert main(fewer) == 0
    assert [r["step"] for r in read_metrics(tmp_path / "run")][-1] == step + 1


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

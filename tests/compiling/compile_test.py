"""The command compile, for small pods of which there is none here."""

import importlib.util
import json
import logging
import pickle
import re

import gin
import jax
import pytest

from salt_jax.compiling import compile as compile_module
from salt_jax.compiling.compile import compiling
from salt_jax.compiling.inspected import Inspected, exhausted_bytes
from salt_jax.compiling.topology import open_topology, prepare_process
from salt_jax.files.records import write_record
from salt_jax.main import main
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.training.program import Program
from salt_jax.training.saved_steps import facts, load_compiled
from tests import command_files, runs

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(autouse=True)
def _as_before():
    """Commands set up logging and gin for their whole process."""
    root, absl = logging.getLogger(), logging.getLogger("absl")
    kept = root.handlers, absl.handlers, absl.propagate, absl.level
    yield
    root.handlers, absl.handlers, absl.propagate, absl.level = kept
    gin.clear_config()


@pytest.fixture
def named(tmp_path):
    """The arguments that name a SALT run, of which nothing is there but its file."""
    command_files.write_files(tmp_path)
    return [f"--gin_file={tmp_path}/salt.gin", f"--workdir={tmp_path}/run"]


@pytest.fixture
def compiled(capsys):
    """Runs the command: returns its exit code and the report as JSON."""

    def run(*arguments):
        code = main(["compile", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


# ---- What fits, and what does not -------------------------------------------


@needs_libtpu
@pytest.mark.usefixtures("fully_optimized")
@pytest.mark.slow
def test_a_step_that_fits_a_pod_is_told_with_what_it_holds_and_moves(named, compiled):
    code, report = compiled(*named, "--topology=v5e:2x2", "--programs=distill")
    assert (code, report["fits"], report["chips"]) == (0, True, 4)
    assert report["mesh"] == {"replica": 1, "data": 2, "model": 2}
    assert report["usable_bytes_per_chip"] == 15.75 * 2**30
    assert report["verdict"].startswith("fits: ")
    (step,) = report["programs"].values()
    held = step["bytes_held"]
    # AdamW keeps two moments and a count for what FSDP and tensors split in two each.
    assert 2 * held["parameters"] < held["optimizer"] < 2.1 * held["parameters"] + 64
    assert (
        held["parameters"]
        == report["restore"]["bytes_per_chip"] - held["optimizer"] - 4
    )
    assert step["bytes_peak"] > sum(held.values()) > 0
    assert step["tokens_per_chip"] == 8 * 16 / 4
    kinds = {moved["kind"] for moved in step["collectives"]}
    assert {"all-gather", "all-reduce"} <= kinds
    assert not any(moved["across_slices"] for moved in step["collectives"])
    assert step["compile_seconds"] > 0.5  # It was not read from a cache.
    assert step["prediction"] is None  # The lowest level overlaps nothing.


@needs_libtpu
@pytest.mark.usefixtures("fully_optimized")
@pytest.mark.slow
def test_across_slices_only_gradients_and_what_is_small_is_moved(named, compiled):
    code, report = compiled(
        *named, "--topology=v5e:2x2", "--num_slices=2", "--programs=standard",
        "--gin.partitioning.MeshShape.model=1",
    )  # fmt: skip
    assert code == 0
    assert report["mesh"] == {"replica": 2, "data": 4, "model": 1}
    step = report["programs"]["standard"]
    sent = sum(x["bytes_per_chip"] for x in step["collectives"] if x["across_slices"])
    gradients = step["bytes_made_by_formula"]["gradients"]
    # Two slices exchange each its half of a sum, which a chip holds a part of.
    assert 0.5 * gradients < sent < 2 * gradients


@needs_libtpu
@pytest.mark.usefixtures("fully_optimized")
@pytest.mark.slow
def test_a_step_that_is_too_large_is_told_with_advice_and_exit_code_1(named, capsys):
    code = main([
        "compile", *named, "--topology=v5e:2x2", "--programs=distill",
        "--gin.BATCH_SIZE=8388608", "--gin.config.Experiment.loss_chunk_tokens=9999999",
    ])  # fmt: skip
    *table, verdict = capsys.readouterr().out.splitlines()
    assert code == 1
    assert verdict.startswith("does not fit: ")
    assert " of 15.75 GiB (distill); try " in verdict
    assert "half the loss_chunk_tokens" in verdict
    assert any("saved activations" in line for line in table)


@pytest.mark.parametrize(
    "message, gib",
    [
        ("XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
         "23.40G of 15.75G hbm. Exceeded hbm capacity by 7.65G.", 23.40),
        ("Ran out of memory on HBM, the total memory required for HLO temporaries "
         "(290.00G) exceeds available HBM (15.75G).", 290.0),
        ("Ran out of memory in memory space hbm. Used 1.02T of 15.75G hbm.", 1044.48),
    ],
)  # fmt: skip
def test_the_size_is_read_from_what_the_compiler_refuses_with(message, gib):
    found = exhausted_bytes(f"RESOURCE_EXHAUSTED: {message}")
    assert found == pytest.approx(gib * 2**30)


def test_a_compiler_that_fails_for_another_reason_is_not_taken_for_a_full_chip():
    with pytest.raises(ValueError, match="The compiler failed .INTERNAL: no"):
        exhausted_bytes("INTERNAL: no")


# ---- How hard the compiler tries --------------------------------------------


def options_of_the_compiler():
    config = jax.config
    return config.jax_optimization_level, config.jax_enable_compilation_cache


def test_a_level_holds_without_a_cache_while_compiling_and_no_longer():
    before = options_of_the_compiler()
    with compiling("O1"):
        assert options_of_the_compiler() == ("O1", False)
    with compiling(None):
        assert options_of_the_compiler() == ("UNKNOWN", False)
    assert options_of_the_compiler() == before == ("UNKNOWN", True)


@pytest.mark.parametrize(
    "arguments, level, said",
    [([], "O0", "level O0"),
     (["--save=there"], "UNKNOWN", "as train does"),
     (["--optimization_level=train"], "UNKNOWN", "as train does"),
     (["--optimization_level=O1"], "O1", "level O1")],
)  # fmt: skip
def test_saved_steps_are_compiled_at_the_level_of_train_and_fit_checks_at_o0(
    arguments, level, said, named, tmp_path, monkeypatch, capsys
):
    arguments = [x.replace("there", f"{tmp_path}/there") for x in arguments]
    used = []
    monkeypatch.setattr(
        compile_module, "inspect", lambda one, _, predicted: used.append(
            (options_of_the_compiler()[0], predicted)) or refused(one))  # fmt: skip
    assert main(["compile", *named, "--topology=here", *arguments]) == 1
    # Only what train compiles has a schedule to predict the time from.
    assert used == [(level, level == "UNKNOWN")] * 4
    assert said in capsys.readouterr().out


def refused(planned):
    return Inspected(planned=planned, peak=10, available=5)


@pytest.mark.parametrize(
    "arguments, said",
    [(["--save=there", "--optimization_level=O1"], "--optimization_level=O1"),
     (["--save=there", "--programs=distill"], "--save keeps every stage"),
     (["--search", "--json"], "--search has no use for --json"),
     (["--search=0"], "0 is not positive")],
)  # fmt: skip
def test_options_that_do_nothing_together_are_refused(arguments, said, named, capsys):
    assert main(["compile", *named, "--topology=here", *arguments]) == 2
    assert said in capsys.readouterr().err


# ---- What this machine has --------------------------------------------------


def test_scoring_is_compiled_for_one_host(named, compiled, tmp_path):
    score = f"--gin_file={tmp_path}/score.gin"
    code, report = compiled(score, "--topology=here")
    assert code == 0
    assert list(report["programs"]) == ["scoring"]
    assert report["restore"] is None
    assert report["programs"]["scoring"]["tokens_per_chip"] == 16 * 16 / 8


@pytest.mark.slow
def test_saved_steps_train_to_the_same_numbers_in_another_process(tmp_path):
    command_files.write_files(tmp_path)
    runs.make_files(tmp_path)
    named = [f"--gin_file={tmp_path}/baseline.gin"]
    keep = f"--save={tmp_path}/compiled"
    assert main(["compile", *named, "--topology=here", keep]) == 0
    with_them = [f"--compiled={tmp_path}/compiled", "--trust_pickles"]
    with_them.append(f"--workdir={tmp_path}/loaded")
    done = command_files.run("train", *named, *with_them)
    assert done.returncode == 0, done.stderr
    assert "Loading the compiled steps" in done.stderr
    assert "Compiling" not in done.stderr
    assert main(["train", *named, f"--workdir={tmp_path}/fresh"]) == 0
    losses = [_losses(tmp_path / name) for name in ("loaded", "fresh")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def _losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if "loss" in r]


def test_compiled_steps_that_are_not_there_are_refused(tmp_path):
    program = Program.on(runs.experiment(tmp_path))
    with pytest.raises(FileNotFoundError, match="No compiled steps in "):
        load_compiled(tmp_path, program, program.stages_from(0))
    about = facts(program) | {"stages": {"standard": ""}}
    write_record(tmp_path / "compiled.json", about)
    with pytest.raises(FileNotFoundError, match="No compiled step of distill in "):
        load_compiled(tmp_path, program, program.stages_from(0))


class _Planted:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_a_damaged_step_is_refused_by_name_before_it_is_unpickled(tmp_path):
    program = Program.on(runs.experiment(tmp_path))
    stages = {stage.name: "0" * 64 for stage in program.stages_from(0)}
    write_record(tmp_path / "compiled.json", facts(program) | {"stages": stages})
    file = tmp_path / f"{next(iter(stages))}.executable"
    file.write_bytes(pickle.dumps(_Planted()))
    with pytest.raises(ValueError, match=f"{file} is damaged: .* compile again"):
        load_compiled(tmp_path, program, program.stages_from(0))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--compiled=here"], "--compiled=here .* add --trust_pickles"),
        (["--trust_pickles"], "--compiled, which is missing"),
    ],
)
def test_pickles_are_read_only_when_that_is_asked_for(flags, named, capsys):
    assert main(["train", "--gin_file=gin/tiny.gin", *flags]) == 2
    assert re.search(named, capsys.readouterr().err)


def test_steps_of_another_experiment_or_mesh_are_refused_by_name(tmp_path):
    about = facts(Program.on(runs.experiment("/here"))) | {"stages": {}}
    write_record(tmp_path / "compiled.json", about)
    program = Program.on(runs.experiment("/there", mesh=MeshShape()))
    with pytest.raises(ValueError) as refused:
        load_compiled(tmp_path, program, program.stages_from(0))
    said = str(refused.value)
    assert "stages.0.data.path is /here/data there and /there/data here;" in said
    assert "mesh.model is 2 there and 1 here" in said


@pytest.mark.parametrize(
    "name, of", [("code", "code"), ("versions", "versions.jax"), ("rules", "rules.mlp")]
)
def test_steps_of_other_code_versions_or_rules_are_refused_by_name(name, of, tmp_path):
    program = Program.on(runs.experiment(tmp_path))
    about = facts(program)
    other = about[name] | {of.split(".")[1]: "no"} if "." in of else "no"
    write_record(tmp_path / "compiled.json", about | {name: other})
    with pytest.raises(ValueError, match=f"{of} is no there and .* here"):
        load_compiled(tmp_path, program, program.stages_from(0))


# ---- What cannot be compiled for --------------------------------------------

KNOWN = "is not one of v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB, a100:N, h100:N, h200:N, "


@pytest.mark.parametrize(
    "name, num_slices, said",
    [
        ("v7:2x2", 1, f"--topology=v7:2x2 {KNOWN}"),
        ("v5e", 1, f"--topology=v5e {KNOWN}"),
        ("v5e:2xx2", 1, f"--topology=v5e:2xx2 {KNOWN}"),
        ("v5e:2x2x2", 1, "2x2x2 has 3 dimensions; v5e slices have 2."),
        ("v5e:32x32", 1, "has 1024 chips, and a v5e slice has at most 256"),
        ("v5e:2x2", 0, "--num_slices=0 is not a positive"),
        ("gpu:some", 1, f"--topology=gpu:some {KNOWN}"),
        ("gpu:8", 1, "needs 8 GPUs, and JAX sees 0"),
        ("here", 2, "--num_slices=2"),
        pytest.param("v5e:3x3", 1, "--topology=v5e:3x3 (",
                     marks=needs_libtpu),
    ],
)  # fmt: skip
def test_a_topology_that_cannot_be_is_refused(name, num_slices, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        open_topology(name, num_slices)


@needs_libtpu
@pytest.mark.parametrize(
    "name, chips, usable",
    [("v4:2x2x1", 4, 30.75), ("v5e:1x1", 1, 15.75), ("v5p:2x2x1", 4, 95.74),
     ("v6e:2x4", 8, 31.25)],
)  # fmt: skip
def test_a_chip_is_one_device_with_the_memory_that_programs_may_use(
    name, chips, usable
):
    prepare_process(name)
    topology = open_topology(name)
    assert len(topology.devices) == chips
    assert topology.available == pytest.approx(usable * 2**30)
    assert len(topology.one_host) == min(chips, 4)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "required: --topology"),
        (["--topology=v7:2x2"], f"--topology=v7:2x2 {KNOWN}"),
        (["--topology=here", "--programs=standard,sampling"],
         "sampling; this run has distill, standard, init, evaluation."),
        (["--topology=here", "--gin.partitioning.MeshShape.model=3"],
         "8 devices"),
        pytest.param(
            ["--topology=v5e:2x2", "--num_slices=4",
             "--gin.partitioning.MeshShape.replica=2"],
            "replica=2 is not a multiple of the 4 slices",
            marks=needs_libtpu),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said, named, capsys):
    assert main(["compile", *named, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err
    assert len(err.splitlines()) == 1


def test_a_machine_without_the_tpu_compiler_is_told_how_to_get_it(
    named, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "libtpu" else find(name),
    )
    assert main(["compile", *named, "--topology=v5e:2x2"]) == 2
    assert "run pip install -e '.[tpu]'" in capsys.readouterr().err

"""The alternatives of a SALT experiment, in the commands that look at its steps."""

import json

import pytest

from salt_jax.main import main
from salt_jax.telemetry.metric_writer import read_metrics

SMALL = """
include 'gin/tiny_salt_ds.gin'
from salt_jax.mesh import partitioning
DATA = '{files}/data'
TEACHER = '{files}/teacher'
SMALL_EXPORT = '{files}/teacher'
SELECTION = None
SEQ_LEN = 16
TOTAL_STEPS = 6
N_KD = 3
WARMUP_STEPS = 2
BATCH_SIZE = 8
config.Experiment.mesh = @partitioning.MeshShape()
partitioning.MeshShape.model = 2
config.Experiment:
  loss_chunk_tokens = 16
  save_every = 2
  log_every = 1
config.Validation:
  every = 1
  num_sequences = 8
"""
SHAPE = """
{name}/model.TransformerConfig:
  num_layers = {layers}
  embed_dim = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_dim = 32
"""
ALTERNATIVES = {
    "ranks, stacked, average": (
        "TOKENS=@gates.WhereTeacherRanks()",
        "INITIAL_EXPORT=@starts.Stacked()",
        "AVERAGE=@moving_average.MovingAverage()",
        "AVERAGE_DECAY=0.9",
    ),
    "leads, reaches, gap": (
        "TOKENS=@gates.WhereTeacherLeads()",
        "N_KD=6",
        "LEAVE=@leaving.WhenStudentReaches()",
        "KD_SCHEDULE=@weighing.GapProportional()",
    ),
}


@pytest.fixture(scope="module")
def small(files, tmp_path_factory):
    """The shipped experiment, with models and data that take seconds."""
    path = tmp_path_factory.mktemp("small") / "small.gin"
    head = "from __gin__ import dynamic_registration\n"
    imports = (
        "from salt_jax import config\nfrom salt_jax.model import config as model\n"
    )
    shapes = (("llm_tiny", 2), ("slm_tiny", 1))
    text = SMALL.replace("{files}", str(files))
    text += "".join(SHAPE.format(name=name, layers=n) for name, n in shapes)
    path.write_text(head + imports + text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("bindings", ALTERNATIVES.values(), ids=ALTERNATIVES)
def test_steps_of_alternatives_are_replayed_timed_and_compiled(
    bindings, small, tmp_path, capsys
):
    named = [f"--gin_file={small}", *(f"--gin.{each}" for each in bindings)]
    workdir = f"--workdir={tmp_path / 'run'}"
    assert main(["train", *named, workdir]) == 0
    records = {r["step"]: r for r in read_metrics(tmp_path / "run") if "loss" in r}
    assert [*records] == [1, 2, 3, 4, 5, 6]
    capsys.readouterr()
    assert main(["train", *named, workdir, "--debug_step=3"]) == 0
    assert f"loss {records[3]['loss']:.6g}" in capsys.readouterr().out
    times = tmp_path / "times.json"
    limits = ["--rounds=1", "--steps_per_block=1", f"--output={times}"]
    assert main(["time_steps", *named, *limits]) == 0
    timed = json.loads(times.read_text())["updates"]
    assert [x["name"] for x in timed] == ["small/standard", "small/distill"]
    capsys.readouterr()
    assert main(["compile", *named, "--topology=here", "--json"]) == 0
    programs = json.loads(capsys.readouterr().out)["programs"]
    assert {"distill", "standard", "init"} <= {*programs}

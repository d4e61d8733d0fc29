"""A SALT_DS run that takes seconds, as gin files on the repository's shared ones."""

import dataclasses
import pathlib
import subprocess
import sys

from salt_jax.main import main
from tests import runs

TEACHER = dataclasses.replace(
    runs.STUDENT, num_layers=1, embed_dim=16, scan_layers=False
)

_HEAD = """\
from __gin__ import dynamic_registration
from salt_jax import config
from salt_jax.data.reading import prepared_text
from salt_jax.mesh import partitioning
from salt_jax.optim import schedules
from salt_jax.data.selecting import ranking
from salt_jax.data.selecting import selection
from salt_jax.model import config as model
"""

_PATHS = """
DATA = '{folder}/data'
SEQ_LEN = 16
"""

_SLM = """
slm/model.TransformerConfig:
  num_layers = 1
  embed_dim = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_dim = 32
"""

_LLM = """
llm/model.TransformerConfig:
  num_layers = 2
  embed_dim = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_dim = 32
"""

_TRAINING = """
include 'gin/shared/tiny_training.gin'

TOTAL_STEPS = 6
BATCH_SIZE = 8
WARMUP_STEPS = 2
config.Experiment.mesh = @partitioning.MeshShape()
partitioning.MeshShape.model = 2
config.Experiment.loss_chunk_tokens = 16
config.Experiment.save_every = 2
config.Experiment.log_every = 1
config.Validation.every = 3
config.Validation.num_sequences = 10
"""

_STANDARD = """
standard/config.Stage:
  name = 'standard'
  end_step = %TOTAL_STEPS
  data = @prepared_text.PreparedText()
"""

_FILES = {
    "prepare": """
include 'gin/shared/prepare.gin'
include 'gin/shared/tiny.gin'
CORPUS = '{folder}/corpus'
""",
    "slm": _SLM
    + _TRAINING
    + _STANDARD
    + """
config.Experiment.stages = (@standard/config.Stage(),)
MODEL = @slm/model.TransformerConfig()
config.Experiment.keep_steps = (2,)
""",
    "score": _SLM
    + """
include 'gin/shared/score.gin'
include 'gin/shared/tiny.gin'
SCORER_MODEL = @slm/model.TransformerConfig()
SCORER = '{folder}/early'
SCORES = '{folder}/scores'
config.Scoring.batch_size = 16
config.Scoring.sequences_per_shard = 100
""",
    "salt": _SLM
    + _LLM
    + _TRAINING
    + _STANDARD
    + """
include 'gin/shared/alternatives.gin'
config.Experiment.stages = (@distill/config.Stage(), @standard/config.Stage())
distill/config.Stage:
  name = 'distill'
  end_step = %N_KD
  data = @prepared_text.PreparedText()
  distillation = @config.Distillation()
distill/prepared_text.PreparedText.selection = %SELECTION
config.Distillation:
  teacher = %TEACHER_MODEL
  teacher_export = %TEACHER
  kd_weight = %KD_SCHEDULE
  temperature = %TEMPERATURE
schedules.Step:
  value = %KD_WEIGHT
  end_step = %N_KD
selection.Selection:
  scores = %SCORES
  ranking = %RANKING
  keep_fraction = %KEEP_FRACTION
ranking.HighestScores.score = %SCORE
MODEL = @llm/model.TransformerConfig()
TEACHER_MODEL = @slm/model.TransformerConfig()
TEACHER = '{folder}/teacher'
SCORES = '{folder}/scores'
N_KD = 3
KD_WEIGHT = 0.667
TEMPERATURE = 1.0
KD_SCHEDULE = @schedules.Step()
SELECTION = @selection.Selection()
RANKING = @ranking.HighestScores()
KEEP_FRACTION = 0.5
SCORE = 'median_k10_zeros'
""",
    "baseline": _LLM
    + _TRAINING
    + _STANDARD
    + """
config.Experiment.stages = (@standard/config.Stage(),)
MODEL = @llm/model.TransformerConfig()
""",
}


def write_files(folder):
    """Writes a corpus, and a gin file for each command that is run on it."""
    folder = pathlib.Path(folder)
    runs.make_corpus(folder / "corpus")
    for name, text in _FILES.items():
        text = _HEAD + text + _PATHS
        (folder / f"{name}.gin").write_text(text.replace("{folder}", str(folder)))


def command(*arguments):
    """The command line of salt_jax in a process of its own."""
    return [sys.executable, "-m", "salt_jax.main", *map(str, arguments)]


def run(*arguments, **options):
    """Runs it to the end, with what it wrote."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, **options
    )


def salt(files, workdir, *overrides):
    """The arguments that train a SALT run with overrides."""
    return [
        f"--gin_file={files}/salt.gin",
        f"--workdir={workdir}",
        *(f"--gin.{name}" for name in overrides),
    ]


def refusal(capsys, *arguments, code=2):
    """Runs a command that is refused, and returns its one line on stderr."""
    capsys.readouterr()
    found = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("salt_jax: ")
    return line

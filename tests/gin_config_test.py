import dataclasses
import importlib.util
import pathlib
import re
import shutil
import sys

import gin
import jax
import pytest

from salt_jax import config, gin_config
from salt_jax.commands.lab import reading
from salt_jax.compiling.topology import open_topology, prepare_process
from salt_jax.config import Experiment, Scoring
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.data.reading.batch_sizes import Ramp
from salt_jax.data.reading.objectives import CausalLM, Mixture, PrefixLM, SpanCorruption
from salt_jax.data.selecting.near_duplicates import NearDuplicates
from salt_jax.data.selecting.ranking import (
    HighestScores,
    Learnability,
    PerplexityBand,
    Random,
)
from salt_jax.data.selecting.selection import Selection
from salt_jax.files.changes import changed_fields
from salt_jax.gin_reading import files
from salt_jax.lab.planning import plan
from salt_jax.lab.values import Lab
from salt_jax.loss.gates import WhereTeacherLeads, WhereTeacherRanks
from salt_jax.mesh.partitioning import AxisRules, MeshShape
from salt_jax.model.transformer import Transformer, abstract_params
from salt_jax.optim.schedules import (
    Constant,
    LinearDecay,
    LinearRatioDecay,
    Step,
    WarmupLinear,
    WarmupStableDecay,
)
from salt_jax.studies.known_truth import KnownTruth
from salt_jax.training.program import Program
from tests.examples import partitioning

FILES = sorted(pathlib.Path("gin").glob("*.gin"))
SALT = "gin/salt_2p8b.gin"

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(autouse=True)
def _clear_gin():
    yield
    gin.clear_config()


def load(*overrides, file=SALT):
    return gin_config.load([file], overrides)


def with_objective(objective, stage):
    data = dataclasses.replace(stage.data, objective=objective)
    return dataclasses.replace(stage, data=data)


def params_of(model):
    abstract = abstract_params(Transformer(model, partitioning()))
    return sum(x.size for x in jax.tree.leaves(abstract))


def test_there_are_experiments_to_test():
    assert {"salt_2p8b", "tiny_salt_ds"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_in_the_folder_loads_and_builds(path):
    # Eight devices are one host, and its copy of the parameters.
    overrides = ["HOSTS = 1"] if "HOSTS = 8" in path.read_text() else []
    value = gin_config.load([str(path)], overrides)
    if isinstance(value, Experiment):
        devices = jax.devices() if value.model.embed_dim >= 1024 else jax.devices()[:1]
        program = Program.on(value, devices)
        assert program.abstract_state.step.shape == ()
        for stage in value.stages:
            program.update(stage)
    elif isinstance(value, Lab):  # All experiments in it load too.
        assert plan(value, reading()).nodes
    else:
        assert isinstance(value, (Scoring, Preparation, KnownTruth))


def test_the_z_loss_and_the_recipe_hold_for_both_stages():
    experiment = load("config.Experiment.z_loss=1e-4")
    program = Program.on(experiment, jax.devices())
    assert [program.update(x).z_loss for x in experiment.stages] == [1e-4, 1e-4]
    assert experiment.model.init_outputs_by_depth
    # Relative to parameter size, as T5 and PaLM have it; 1e-3 hardly moves.
    assert experiment.optimizer.scale_by_parameter
    assert float(experiment.optimizer.learning_rate.peak) >= 1e-2


# Billions of parameters, those of the embedding counted once.
STUDENTS = {
    "slm_0p5b": 0.489,
    "slm_1p5b": 1.480,
    "baseline_2p8b": 2.801,
    "rkd_2p8b": 2.801,
    "salt_2p8b": 2.801,
    "salt_8p6b": 8.607,
    "slm_8b": 8.053,
    "salt_70b": 70.600,
}


def test_every_experiment_at_scale_is_counted():
    at_scale = [path.stem for path in FILES if re.search(r"_\d+(p\d+)?b$", path.stem)]
    assert sorted(at_scale) == sorted(STUDENTS)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_student_has_as_many_parameters_as_its_name_says(name):
    billions = params_of(load(file=f"gin/{name}.gin").model) / 1e9
    assert billions == pytest.approx(STUDENTS[name], abs=0.0005)


@pytest.mark.parametrize(
    "name, billions",
    [("salt_2p8b", 1.480), ("rkd_2p8b", 1.480), ("salt_8p6b", 2.801),
     ("salt_70b", 8.053)],
)  # fmt: skip
def test_the_teacher_has_as_many_parameters_as_its_file_says(name, billions):
    teacher = load(file=f"gin/{name}.gin").stages[0].distillation.teacher
    assert params_of(teacher) / 1e9 == pytest.approx(billions, abs=0.0005)


def test_the_teacher_of_0_5_billion_is_fewer_layers_of_the_other():
    small = load(file="gin/slm_0p5b.gin").model
    override = f"slm_1p5b/model.TransformerConfig.num_layers={small.num_layers}"
    assert load(override).stages[0].distillation.teacher == small


@pytest.mark.parametrize("name", STUDENTS)
def test_at_scale_a_step_reads_2048_sequences_on_every_chip_of_a_pod(name):
    experiment = load(file=f"gin/{name}.gin")
    assert (experiment.batch_size, experiment.seq_len) == (2048, 1280)
    assert experiment.mesh == MeshShape(model=8)
    rules = [experiment.rules]
    rules += [s.distillation.teacher_rules for s in experiment.stages if s.distillation]
    fsdp = AxisRules(batch=("replica", "data", "model"))
    assert rules == [fsdp] * len(rules)


@needs_libtpu
@pytest.mark.parametrize("name", STUDENTS)
def test_at_scale_every_array_divides_over_1024_chips_and_so_over_fewer(name):
    experiment = load(file=f"gin/{name}.gin")
    prepare_process("v5p:8x8x16")
    program = Program.on(experiment, open_topology("v5p:8x8x16").devices)
    assert program.abstract_state
    for stage in experiment.stages:
        if stage.distillation:
            assert program.abstract_teacher(stage.distillation)


def test_the_small_model_has_1_48_billion_parameters_in_every_role():
    salt = load()
    roles = [
        load(file="gin/slm_1p5b.gin").model,
        load(file="gin/rkd_2p8b.gin").stages[0].distillation.teacher,
        load(file="gin/score_pile.gin").scorer,
    ]
    teacher = salt.stages[0].distillation.teacher
    assert roles == [teacher] * 3
    assert params_of(teacher) / 1e9 == pytest.approx(1.48, abs=0.005)


def test_the_demo_differs_from_the_paper_in_sizes_and_paths_only():
    def shape(value):
        """Names of types and fields, without the values in them."""
        if isinstance(value, dict):
            return {name: shape(inner) for name, inner in value.items()}
        return [shape(x) for x in value] if isinstance(value, list) else None

    big, tiny = load(), load(file="gin/tiny_salt_ds.gin")
    stages = [with_objective(CausalLM(), stage) for stage in big.stages]
    distillation = dataclasses.replace(stages[0].distillation, teacher_rules=tiny.rules)
    stages[0] = dataclasses.replace(stages[0], distillation=distillation)
    big = dataclasses.replace(
        big, optimizer=tiny.optimizer, rules=tiny.rules, stages=stages
    )
    assert shape(config.as_json(big)) == shape(config.as_json(tiny))


def test_salt_and_baseline_differ_in_nothing_but_the_first_stage():
    for size in ("tiny_salt_ds", "tiny_baseline"), ("salt_2p8b", "baseline_2p8b"):
        salt, baseline = (load(file=f"gin/{name}.gin") for name in size)
        without = lambda e: {**config.as_json(e), "stages": None}
        assert without(salt) == without(baseline)
        assert salt.stages[-1] == baseline.stages[-1]


@pytest.mark.parametrize(
    "override, of, value",
    [
        ("KD_WEIGHT=0.25", lambda s: s.distillation.kd_weight.value, 0.25),
        ("TEMPERATURE=0.5", lambda s: s.distillation.temperature, 0.5),
        ("N_KD=1000", lambda s: s.end_step, 1000),
        ("N_KD=1000", lambda s: s.distillation.kd_weight.end_step, 1000),
        ("KEEP_FRACTION=0.125", lambda s: s.data.selection.keep_fraction, 0.125),
        ("TEACHER='/x'", lambda s: s.distillation.teacher_export, "/x"),
        ("SELECTION=None", lambda s: s.data.selection, None),
        ("RANKING=@ranking.Random()", lambda s: s.data.selection.ranking,
         Random(seed=0)),
        ("PER_DOMAIN=True", lambda s: s.data.selection.per_domain, True),
        ("NEAR_DUPLICATES=@near_duplicates.NearDuplicates()",
         lambda s: s.data.selection.near_duplicates,
         NearDuplicates(min_similarity=0.8)),
        ("KD_SCHEDULE=@schedules.Constant()",
         lambda s: s.distillation.kd_weight, Constant(value=0.667)),
        ("KD_SCHEDULE=@schedules.LinearDecay()", lambda s: s.distillation.kd_weight,
         LinearDecay(start=0.667, end=0.0, begin_step=0, end_step=36_000)),
        ("KD_SCHEDULE=@schedules.LinearRatioDecay()",
         lambda s: s.distillation.kd_weight,
         LinearRatioDecay(start=0.667, begin_step=0, end_step=36_000)),
        ("TOKENS=@gates.WhereTeacherRanks()", lambda s: s.distillation.tokens,
         WhereTeacherRanks(k=10)),
        ("TOKENS=@gates.WhereTeacherLeads()", lambda s: s.distillation.tokens,
         WhereTeacherLeads(margin=0.0)),
        ("config.Distillation.real_vocab_size=4000",
         lambda s: s.distillation.real_vocab_size, 4000),
        # A default said again, and what only some of the readers take.
        ("KD_WEIGHT=0.667", lambda s: s.distillation.kd_weight.value, 0.667),
        ("config.Distillation.teacher_dtype='bfloat16'",
         lambda s: s.distillation.teacher_dtype, "bfloat16"),
        ("prepared_text.PreparedText.objective=@objectives.CausalLM()",
         lambda s: s.data.objective, CausalLM()),
    ],
)  # fmt: skip
def test_an_override_reaches_the_experiment(override, of, value):
    assert of(load(override).stages[0]) == value


HIGHEST = Selection(
    scores="/scores/slm_1p5b",
    ranking=HighestScores(score="median_k10_zeros"),
    keep_fraction=0.5,
)


@pytest.mark.parametrize(
    "overrides, ranking",
    [
        (["RANKING=@ranking.Random()", "SEED=3"], Random(seed=3)),
        (["RANKING=@ranking.PerplexityBand()", "BAND='mid'"],
         PerplexityBand(band="mid")),
        (["RANKING=@ranking.Learnability()", "REFERENCE_SCORES='/late'"],
         Learnability(reference="/late")),
    ],
)  # fmt: skip
def test_another_ranking_is_an_override_and_what_it_must_be_told(overrides, ranking):
    assert load(*overrides).stages[0].data.selection.ranking == ranking


def test_the_defaults_are_a_step_and_the_highest_scores():
    stage = load().stages[0]
    assert stage.distillation.kd_weight == Step(value=0.667, end_step=36_000)
    assert stage.data.selection == HIGHEST


UL2 = Mixture(
    denoisers=(
        CausalLM(),
        PrefixLM(mean_share=0.25),
        SpanCorruption(rate=0.15, mean_length=3.0),
        SpanCorruption(rate=0.5, mean_length=32.0),
    ),
    weights=(6, 2, 1, 1),
)


@pytest.mark.parametrize("name", ["salt_2p8b", "baseline_2p8b", "rkd_2p8b", "slm_1p5b"])
def test_at_the_papers_scale_every_stage_learns_ul2_and_is_measured_causally(name):
    experiment = load(file=f"gin/{name}.gin")
    assert [stage.data.objective for stage in experiment.stages] == [UL2] * len(
        experiment.stages
    )
    assert experiment.validation.data.objective == CausalLM()


@pytest.mark.parametrize("name", ["tiny_salt_ds", "tiny_baseline", "tiny_slm"])
def test_the_demo_learns_causally_unless_told_otherwise(name):
    file = f"gin/{name}.gin"
    for stage in load(file=file).stages:
        assert stage.data.objective == CausalLM()
    for stage in load("OBJECTIVE=@objectives.Mixture()", file=file).stages:
        assert stage.data.objective == UL2


@pytest.mark.parametrize(
    "override, index, denoiser",
    [
        ("MEAN_PREFIX_SHARE=0.5", 1, PrefixLM(mean_share=0.5)),
        ("SHORT_SPAN_RATE=0.2", 2, SpanCorruption(rate=0.2, mean_length=3.0)),
        ("LONG_SPAN_LENGTH=16.0", 3, SpanCorruption(rate=0.5, mean_length=16.0)),
        ("objectives.CausalLM.mode_token='[S]'", 0, CausalLM(mode_token="[S]")),
        ("long_spans/objectives.SpanCorruption.mode_token='[X]'", 3,
         SpanCorruption(rate=0.5, mean_length=32.0, mode_token="[X]")),
    ],
)  # fmt: skip
def test_the_rates_of_ul2_are_dials(override, index, denoiser):
    stage = load(override).stages[0]
    assert stage.data.objective.denoisers[index] == denoiser


def test_an_override_chooses_another_objective():
    data = load("OBJECTIVE=@objectives.PrefixLM()").stages[1].data
    assert data.objective == PrefixLM(mean_share=0.25)


def test_a_denoiser_of_a_users_own_module_is_an_objective(tmp_path, monkeypatch):
    (tmp_path / "my_denoisers.py").write_text(
        """
import dataclasses
from salt_jax.data.reading.objectives import Example

@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    given: int = 1
    mode_token: str | None = None
    has_prefix = True

    def capacity(self, row_len):
        return row_len

    def num_sentinels(self, row_len):
        return 0

    def denoise(self, tokens, draw, sentinels):
        given = min(self.given, len(tokens) - 1)
        return Example(tokens[:given], tokens[given:])
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.gin").write_text(
        f"""
from __gin__ import dynamic_registration
import my_denoisers

include '{pathlib.Path("gin/tiny_baseline.gin").resolve()}'

OBJECTIVE = @my_denoisers.Continuation()
my_denoisers.Continuation.given = 3
"""
    )
    objective = load(file=str(tmp_path / "mine.gin")).stages[0].data.objective
    assert objective.given == 3
    file = str(tmp_path / "mine.gin")
    turned = load("my_denoisers.Continuation.given = 5", file=file)
    assert turned.stages[0].data.objective.given == 5
    inputs, targets = objective.denoise([5, 6, 7, 8], None, None)
    assert (inputs, targets) == ([5, 6, 7], [8])


def test_the_seed_can_be_overridden():
    assert load("SEED=5").seed == 5


def test_stage_one_can_be_left_its_selection_without_its_teacher():
    stage = load("distill/config.Stage.distillation=None").stages[0]
    assert stage.distillation is None
    assert stage.data.selection == HIGHEST


def ends(experiment):
    return {stage.name: stage.end_step for stage in experiment.stages}


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["N_KD=208_000"], {"distill": 208_000}),
        (["N_KD=0"], {"standard": 208_000}),
        (["config.Experiment.stages=(@standard/config.Stage(),)"],
         {"standard": 208_000}),
        (["config.Experiment.stages=(@distill/config.Stage(),)", "N_KD=7"],
         {"distill": 7}),
        (["config.Experiment.stages="
          "(@distill/config.Stage(), @standard/config.Stage(), @cool/config.Stage())",
          "cool/config.Stage.name='cool'", "cool/config.Stage.end_step=210_000",
          "cool/config.Stage.data=@cool/prepared_text.PreparedText()",
          "cool/prepared_text.PreparedText.objective=@objectives.CausalLM()"],
         {"distill": 36_000, "standard": 208_000, "cool": 210_000}),
    ],
)  # fmt: skip
def test_stages_are_replaced_added_and_left_out_by_overrides(overrides, expected):
    assert ends(load(*overrides)) == expected


def test_salt_with_a_teacher_to_the_end_is_rkd():
    overrides = ["N_KD=208_000", "SELECTION=None", "KD_SCHEDULE=@schedules.Constant()"]
    assert load(*overrides) == load(file="gin/rkd_2p8b.gin")
    assert load("N_KD=0") == load(file="gin/baseline_2p8b.gin")


def test_a_file_that_replaces_the_stages_of_an_included_one_loads(tmp_path):
    own = "config.Experiment.stages = (@standard/config.Stage(),)\n"
    text = "from __gin__ import dynamic_registration\nfrom salt_jax import config\n"
    (tmp_path / "mine.gin").write_text(text + f"include '{SALT}'\n" + own)
    assert load(file=str(tmp_path / "mine.gin")) == load(file="gin/baseline_2p8b.gin")


def test_the_teachers_weight_may_warm_up_from_0():
    overrides = ["KD_SCHEDULE=@schedules.WarmupLinear()", "KD_WARMUP_STEPS=1000"]
    schedule = load(*overrides).stages[0].distillation.kd_weight
    assert schedule == WarmupLinear(
        peak=0.667, end=0.667, warmup_steps=1000, total_steps=36_000
    )
    assert schedule(0) == 0.0


def test_the_learning_rate_may_fall_from_where_the_teacher_leaves():
    overrides = ["LR_SCHEDULE=@schedules.WarmupStableDecay()", "LR_DECAY_FROM=36_000"]
    before, changed = load(), load(*overrides)
    rate = changed.optimizer.learning_rate
    assert isinstance(rate, WarmupStableDecay)
    assert (rate.decay_step, rate.total_steps) == (36_000, 208_000)
    assert changed.stages == before.stages
    original = before.optimizer.learning_rate
    optimizer = dataclasses.replace(changed.optimizer, learning_rate=original)
    assert dataclasses.replace(changed, optimizer=optimizer) == before


def test_the_batch_may_grow():
    overrides = ["BATCH_SIZE=@batch_sizes.Ramp()", "BATCH_SIZES=((0, 256), (99, 2048))"]
    changed = load(*overrides)
    assert changed.batch_size == Ramp(sizes=((0, 256), (99, 2048)))
    assert dataclasses.replace(changed, batch_size=2048) == load()


MY_SCHEDULES = """
import dataclasses
import jax.numpy as jnp

@dataclasses.dataclass(frozen=True)
class Ramp:
    to: float = 0.5
    steps: int = 100

    def __call__(self, step):
        return self.to * jnp.minimum(jnp.asarray(step) / self.steps, 1.0)
"""


def test_a_users_schedule_in_the_working_directory_is_named_by_overrides(
    tmp_path, monkeypatch
):
    (tmp_path / "ramps_in_cwd.py").write_text(MY_SCHEDULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x])
    overrides = ["KD_SCHEDULE=@ramps_in_cwd.Ramp()", "ramps_in_cwd.Ramp.to=0.25"]
    experiment = gin_config.load(["salt_2p8b.gin"], overrides, ["ramps_in_cwd"])
    schedule = experiment.stages[0].distillation.kd_weight
    assert (type(schedule).__name__, schedule.to) == ("Ramp", 0.25)


def test_a_users_schedule_beside_the_gin_file_is_imported_by_it(tmp_path, monkeypatch):
    (tmp_path / "ramps_beside.py").write_text(MY_SCHEDULES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.gin").write_text(
        f"""
from __gin__ import dynamic_registration
import ramps_beside
from salt_jax.optim import optimizer

include '{SALT}'

KD_SCHEDULE = @ramps_beside.Ramp()
optimizer.Adafactor.learning_rate = @ramps_beside.Ramp()
"""
    )
    file = str(tmp_path / "mine.gin")
    experiment = load("OPTIMIZER/ramps_beside.Ramp.to=0.1", file=file)
    rate, weight = (
        experiment.optimizer.learning_rate,
        experiment.stages[0].distillation.kd_weight,
    )
    assert (rate.to, weight.to) == (0.1, 0.5)


def test_a_later_override_wins():
    assert load("N_KD=10", "N_KD=20").stages[0].end_step == 20


@pytest.mark.parametrize(
    "override, message",
    [
        ("KD_WIEGHT=0.5", "no effect: KD_WIEGHT"),
        ("distil/config.Stage.end_step=4", "no effect: distil/config.Stage.end_step"),
        ("config.Distillation.temprature=2", "config.Distillation.* temperature"),
        ("config.Distilation.temperature=2", "Distilation.* Distillation"),
        ("KD_SCHEDULE=@schedules.Linear()", "Linear.* LinearDecay"),
        ("KD_SCHEDULE=@schedules.Nothing()", "Nothing.* Constant, Step, LinearDecay"),
        ("KD_SCHEDULE=@my_own.Schedule()", "my_own.*--gin_import"),
        ("DATA=/data", "DATA=/data.*--gin.DATA=\"'/data'\""),
        ("OBJECTIVE=causal", "OBJECTIVE=causal"),
        ("config.Experiment.stages=(@standard/config.Stage()", "Experiment.stages"),
        ("KD_WEIGHT=%KD_WEIGHT", "macro refers to itself"),
        ("MODEL=@none/model.TransformerConfig()", "num_layers.* none"),
        ("config.Stage.distillation=None",
         r"Stage.distillation \(.* distill/config.Stage.distillation"),
        ("optimizer.Adafactor.learning_rate=@schedules.Constant()", "value.*OPTIMIZER"),
        ("KD_SCHEDULE=@schedules.WarmupLinear()", "KD_WARMUP_STEPS is not set"),
        ("LR_SCHEDULE=@schedules.WarmupStableDecay()", "LR_DECAY_FROM is not set"),
        ("TOTAL_STEPS=%gin.REQUIRED", "TOTAL_STEPS is not set"),
        ("optimizer.AdamW.b1=0.5", "no effect: optimizer.AdamW.b1"),
        ("KEEP_FRACTION 0.5", "parse"),
        ("KD_WEIGHT=1.5", "kd_weight is 1.5"),
        ("KD_WEIGHT=0.0", "0.0 at step 36000"),
        ("schedules.Step.end_step=100", "0.0 at step 36000"),
        ("N_KD=300_000", "increasing order"),
        ("TEMPERATURE=0", "temperature must be positive, got 0"),
        ("KEEP_FRACTION=0.0", "keep_fraction must be"),
        ("gates.WhereTeacherRanks.k=50", "no effect: gates.WhereTeacherRanks.k"),
        ("TOKENS=0.5", "float .*needs_rank"),
        ("config.Distillation.real_vocab_size=262145", "262145.* 262144 .*262144"),
        ("slm_1p5b/model.TransformerConfig.vocab_size=262080",
         "262080.*262144.*real_vocab_size"),
        ("RANKING=@ranking.PerplexityBand()", "BAND is not set"),
        ("config.Experiment.num_microbatches=3", "does not divide batch_size=2048"),
        ("config.Experiment.z_loss=-1e-4", "z_loss must be at least 0"),
    ],
)  # fmt: skip
def test_a_mistaken_override_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load(override)
    assert "\n" not in str(refusal.value)


def test_a_dial_that_a_choice_made_idle_is_refused():
    with pytest.raises(ValueError, match="no effect: KEEP_FRACTION"):
        load("SELECTION=None", "KEEP_FRACTION=0.1")


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match="No gin file at 'gin/salt.gin'"):
        load(file="gin/salt.gin")


@pytest.mark.parametrize("name", ["tiny_slm.gin", "gin/tiny_slm.gin"])
def test_our_own_files_are_found_from_any_directory(name, tmp_path, monkeypatch):
    here = load(file="gin/tiny_slm.gin")
    monkeypatch.chdir(tmp_path)
    assert load(file=name) == here


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = "include 'gin/tiny_slm.gin'\nTOTAL_STEPS = 601\n"
    (tmp_path / "tiny_slm.gin").write_text(own)
    assert load(file="tiny_slm.gin").total_steps == 601


def test_what_a_file_includes_is_found_beside_it(tmp_path, monkeypatch):
    (tmp_path / "sizes.gin").write_text("TOTAL_STEPS = 7\nWARMUP_STEPS = 2\n")
    mine = "include 'gin/tiny_slm.gin'\ninclude 'sizes.gin'\n"
    (tmp_path / "mine.gin").write_text(mine)
    assert load(file=f"{tmp_path}/mine.gin").total_steps == 7
    with pytest.raises(FileNotFoundError, match="sizes.gin"):
        load(file="gin/tiny_slm.gin")
        load(file="sizes.gin")


def test_an_installed_package_has_the_gin_files_within(tmp_path, monkeypatch, caplog):
    here = load(file="gin/tiny_slm.gin")
    package = tmp_path / "salt_jax"
    shutil.copytree("gin", package / "gin_files")
    monkeypatch.setattr(files, "__file__", f"{package}/gin_reading/files.py")
    monkeypatch.chdir(tmp_path)
    assert load(file="tiny_slm.gin") == here
    assert files.own_folder() == package / "gin_files"
    assert not caplog.records


MISTAKES = {
    "KD_WEIGTH = 0.5": "KD_WEIGTH",
    "tiny/config.Stage.name = 'x'": "tiny/config.Stage.name",
    "distil/config.Stage.distillation = None": "distil/config.Stage.distillation",
    "config.Stage.nam = 'x'": "config.Stage.*nam.* name",
    "config.Stages.name = 'x'": "Stages.* Stage",
    "TEACHER = /x": "TEACHER = /x",
    "include 'gin/none.gin'": "'gin/none.gin'",
    "import not_installed": "not_installed",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_file_is_refused_with_its_line(text, tmp_path):
    lines = len(pathlib.Path(SALT).read_text().splitlines())
    file = tmp_path / "mine.gin"
    file.write_text(pathlib.Path(SALT).read_text() + text + "\n")
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        load(file=str(file))
    assert re.search(MISTAKES[text], str(refusal.value))
    assert f"mine.gin, line {lines + 1}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_includes_itself_is_refused(tmp_path):
    (tmp_path / "mine.gin").write_text(f"include '{tmp_path}/mine.gin'\n")
    with pytest.raises(ValueError, match="includes itself"):
        load(file=str(tmp_path / "mine.gin"))


@pytest.mark.parametrize(
    "name", ["MODEL", "OBJECTIVE", "BATCH_SIZE", "SEQ_LEN", "DATA"]
)
def test_what_an_experiment_does_not_set_is_named(name, tmp_path):
    (tmp_path / "mine.gin").write_text(f"include '{SALT}'\n{name} = %gin.REQUIRED\n")
    with pytest.raises(
        ValueError, match=f"^{name} is not set: give --gin.{name}=VALUE"
    ):
        load(file=str(tmp_path / "mine.gin"))
    (tmp_path / "mine.gin").write_text(f"include '{SALT}'\n{name} = %NOWHERE\n")
    with pytest.raises(ValueError, match="NOWHERE is not set"):
        load(file=str(tmp_path / "mine.gin"))


def test_a_file_that_runs_nothing_is_refused():
    with pytest.raises(ValueError, match="they bind none"):
        load(file="gin/models/llm_2p8b.gin")


def test_the_operative_config_loads_to_the_same_experiment(tmp_path):
    experiment = load("KD_WEIGHT=0.5", file="gin/tiny_salt_ds.gin")
    (tmp_path / "config.gin").write_text(gin_config.operative_config())
    assert load(file=str(tmp_path / "config.gin")) == experiment


def test_changed_fields_are_named_by_their_place():
    before, after = (config.as_json(load(f"KD_WEIGHT={w}")) for w in (0.5, 0.6))
    assert changed_fields(before, after) == ["stages.0.distillation.kd_weight.value"]


def test_an_override_of_a_default_that_no_stage_reads_is_refused(tmp_path):
    # Both stages have a binding of their own, so that the file's default is idle too.
    (tmp_path / "more.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from salt_jax import config\n"
        "config.Stage.distillation = @config.Distillation()\n"
        "standard/config.Stage.distillation = None\n"
    )
    gin_files = [SALT, str(tmp_path / "more.gin")]
    gin_config.load(gin_files)
    with pytest.raises(ValueError, match=r"config\.Stage\.distillation \(overruled by"):
        gin_config.load(gin_files, ["config.Stage.distillation=None"])


def test_an_override_that_misses_a_narrower_scope_says_which(tmp_path, caplog):
    gin_files = [SALT, str(tmp_path / "more.gin")]
    (tmp_path / "more.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from salt_jax.data.reading import prepared_text\n"
        "prepared_text.PreparedText.split = 'val'\n"
        "distill/prepared_text.PreparedText.split = 'test'\n"
    )
    found = gin_config.load(gin_files, ["prepared_text.PreparedText.split='train'"])
    assert [stage.data.split for stage in found.stages] == ["test", "train"]
    (line,) = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert "distill/prepared_text.PreparedText.split" in line and "more.gin" in line


@pytest.mark.parametrize("name", ["a/b", "", "..", 3])
def test_a_stage_whose_name_cannot_name_a_file_is_refused(name):
    stage = load().stages[0]
    with pytest.raises(ValueError, match=f"name of a stage .* {name!r}"):
        dataclasses.replace(stage, name=name)
    assert dataclasses.replace(stage, name="v1.0 a").name == "v1.0 a"

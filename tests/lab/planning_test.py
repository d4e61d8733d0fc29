import dataclasses

import pytest

from salt_jax import gin_config
from salt_jax.commands.lab import reading
from salt_jax.lab import lab_file
from salt_jax.lab.measures import Command, FewShot, HeldOut, OtherText, StepTimes
from salt_jax.lab.planning import plan
from salt_jax.lab.values import Arm, Lab, Prepared, Scores, SmallModel, Vary

BASELINE = Arm(name="baseline", gin_files="gin/tiny_baseline.gin")
SALT = Arm(
    name="salt",
    gin_files="gin/tiny_salt_ds.gin",
    bindings=("TEACHER='{slm}/export'", "N_KD=300", "SELECTION=None"),
)
SLM = SmallModel(name="slm", gin_files="gin/tiny_slm.gin")
SCORES = Scores(
    name="scores", gin_files="gin/tiny_score.gin", bindings="SCORER='{slm}/export-150'"
)
DS = "SELECTION=@selection.Selection()", "SCORES='{scores}/scores'"
TEACHER = "--gin.TEACHER='runs/x/slm/seed-0/export'"


def varied(name, *bindings, of=SALT):
    return Vary(of=of, arms={name: bindings})


def lab(**changes):
    fields = {
        "name": "try",
        "root": "runs/x",
        "seeds": (0,),
        "reference": "baseline",
        "arms": (BASELINE, SALT),
        "small_models": (SLM,),
        "measures": (),
        "step_times": None,
    }
    return Lab(**fields | changes)


def planned(**changes):
    return plan(lab(**changes), reading())


def test_commands_are_those_of_the_layout():
    nodes = planned(arms=(BASELINE, varied("ds", *DS)), scores=(SCORES,)).nodes
    assert {name: " ".join(node.argv) for name, node in nodes.items()} == {
        "baseline/seed-0/run": "train --gin_file=gin/tiny_baseline.gin "
        "--workdir=runs/x/baseline/seed-0/run --gin.SEED=0",
        "slm/seed-0/run": "train --gin_file=gin/tiny_slm.gin "
        "--workdir=runs/x/slm/seed-0/run --gin.SEED=1000",
        "slm/seed-0/export": "export --gin_file=gin/tiny_slm.gin "
        "--workdir=runs/x/slm/seed-0/run --output=runs/x/slm/seed-0/export "
        "--gin.SEED=1000",
        "slm/seed-0/export-150": "export --gin_file=gin/tiny_slm.gin "
        "--workdir=runs/x/slm/seed-0/run --step=150 "
        "--output=runs/x/slm/seed-0/export-150 --gin.SEED=1000",
        "scores/seed-0/scores": "score --gin_file=gin/tiny_score.gin "
        "--gin.SCORER='runs/x/slm/seed-0/export-150' "
        "--gin.SCORES='runs/x/scores/seed-0/scores'",
        "ds/seed-0/run": "train --gin_file=gin/tiny_salt_ds.gin "
        f"--workdir=runs/x/ds/seed-0/run --gin.SEED=0 {TEACHER} --gin.N_KD=300 "
        "--gin.SELECTION=@selection.Selection() "
        "--gin.SCORES='runs/x/scores/seed-0/scores'",
    }


def test_commands_stand_after_what_they_need_and_seeds_one_after_another():
    found = planned(
        seeds=(1, 0),
        scores=(SCORES,),
        preparation=Prepared(gin_files="gin/tiny_prepare.gin"),
        measures=(HeldOut(), FewShot(tasks=("embedded",), steps=(150,))),
    )
    names = list(found.nodes)
    for node in found.nodes.values():
        assert all(names.index(x) < names.index(node.name) for x in node.needs)
    seeds = [name.split("/")[1] for name in names if "/" in name]
    assert seeds == sorted(seeds, reverse=True)
    assert names[:2] == ["prepare", "baseline/seed-1/run"]
    # Prepared anew if it is removed.
    assert found.nodes["prepare"].output == "runs/demo/data"
    needs = {name: node.needs for name, node in found.nodes.items()}
    assert needs["slm/seed-1/run"] == ("prepare",)
    assert needs["salt/seed-0/run"] == ("prepare", "slm/seed-0/export")
    assert needs["scores/seed-0/scores"] == ("prepare", "slm/seed-0/export-150")
    assert needs["salt/seed-0/few_shot-150"] == ("salt/seed-0/export-150",)
    assert needs["slm/seed-0/evaluation"] == ("slm/seed-0/run",)
    assert "slm/seed-0/few_shot-600" not in needs
    assert found.with_needs(["salt/seed-1/run"]) == [
        "prepare", "slm/seed-1/run", "slm/seed-1/export", "salt/seed-1/run"
    ]  # fmt: skip


def test_other_text_replaces_that_of_the_run_and_is_read_by_its_export():
    measure = OtherText(name="law", bindings=("DATA='runs/law'",))
    arm = dataclasses.replace(BASELINE, bindings=("DATA='runs/mine'",))
    node = planned(arms=(arm,), measures=(measure,)).nodes["baseline/seed-0/law"]
    assert " ".join(node.argv) == (
        "evaluate --gin_file=gin/tiny_baseline.gin "
        "--workdir=runs/x/baseline/seed-0/law --export=runs/x/baseline/seed-0/export "
        "--gin.SEED=0 --gin.DATA='runs/law'"
    )
    assert node.needs == ("baseline/seed-0/export",)
    assert node.output == "runs/x/baseline/seed-0/law/evaluation.json"


def test_other_text_needs_a_binding_that_names_it():
    with pytest.raises(ValueError, match=r"bindings.*\(\)"):
        OtherText(name="law", bindings=())


def test_a_varied_binding_stands_where_it_was_and_a_new_one_at_the_end():
    arms = {"early": ("N_KD = 60",), "soft": ("TEMPERATURE=2.0", "SEED={seed}7")}
    early, soft = Vary(of=SALT, arms=arms, group="dials").all_arms()
    assert early.bindings == (
        *("SEED={seed}", "TEACHER='{slm}/export'", "N_KD=60", "SELECTION=None"),
    )
    assert soft.bindings[0] == "SEED={seed}7"
    assert soft.bindings[-1] == "TEMPERATURE=2.0"
    assert (early.name, early.group) == ("early", "dials")


def test_arms_with_equal_commands_are_one_run():
    again = dataclasses.replace(SALT, name="again")
    same_teacher = dataclasses.replace(SLM, name="slm_too")
    other = varied("third", "TEACHER='{slm_too}/export'")
    found = planned(
        arms=(BASELINE, SALT, again, other), small_models=(SLM, same_teacher)
    )
    runs = [name for name in found.nodes if name.endswith("/run")]
    assert runs == ["baseline/seed-0/run", "slm/seed-0/run", "salt/seed-0/run"]
    for name in ("salt", "again", "third"):
        assert found.folders[name, 0] == "salt/seed-0"


def test_a_small_model_with_a_seed_of_its_own_is_made_once_for_all_seeds():
    shared = dataclasses.replace(SLM, seed=7)
    nodes = planned(seeds=(0, 1), small_models=(shared,)).nodes
    assert [x for x in nodes if x.startswith("slm")] == [
        "slm/seed-7/run", "slm/seed-7/export"
    ]  # fmt: skip
    assert "--gin.SEED=1007" in nodes["slm/seed-7/run"].argv
    for seed in (0, 1):
        assert nodes[f"salt/seed-{seed}/run"].needs == ("slm/seed-7/export",)


def test_checkpoints_whose_exports_are_needed_are_kept():
    few_shot = FewShot(tasks=("embedded", "piqa"), steps=(100, 600), limit=3)
    found = planned(measures=(few_shot,), scores=(SCORES,))
    nodes = found.nodes
    assert nodes["slm/seed-0/run"].argv[-1] == "--gin.SEED=1000"  # It keeps 150.
    for name in ("baseline/seed-0/run", "baseline/seed-0/export-100"):
        argv = nodes[name].argv
        assert argv[-1] == "--gin.config.Experiment.keep_steps=(100,)"
    assert nodes["salt/seed-0/few_shot-100"].argv == (
        *("evaluate", "--tasks=embedded,piqa", "--limit=3"),
        "--export=runs/x/salt/seed-0/export-100",
        "--output=runs/x/salt/seed-0/few_shot-100",
    )
    early = dataclasses.replace(SCORES, bindings=("SCORER='{slm}/export-20'",))
    argv = planned(scores=(early,)).nodes["slm/seed-0/run"].argv
    assert argv[-1] == "--gin.config.Experiment.keep_steps=(20, 150,)"
    with pytest.raises(ValueError, match=r"'baseline' trains 600 steps.* 601"):
        planned(measures=(FewShot(tasks=("embedded",), steps=(601,)),))


def test_updates_that_cost_the_same_are_timed_once_beside_the_reference():
    wide = "llm_tiny/model.TransformerConfig.num_layers=3"
    found = planned(
        arms=(
            BASELINE,
            SALT,
            Vary(of=SALT, arms={"early": ("N_KD=60",), "rkd": ("N_KD=600",)}),
            varied("wide", wide),
        ),
        step_times=StepTimes(rounds=5),
    )
    assert found.step_times == {
        "baseline": "runs/x/step_times/baseline_vs_baseline.json",
        "salt": "runs/x/step_times/salt_vs_baseline.json",
        "early": "runs/x/step_times/salt_vs_baseline.json",
        "rkd": "runs/x/step_times/rkd_vs_baseline.json",
        "wide": "runs/x/step_times/wide_vs_baseline.json",
        "slm": "runs/x/step_times/slm_vs_baseline.json",
    }
    beside = "--beside=gin/tiny_baseline.gin", "--beside_bindings=SEED=0"
    for name in ("baseline", "salt", "rkd", "wide", "slm"):
        node = found.nodes[f"step_times/{name}_vs_baseline.json"]
        assert node.needs == ()
        assert "--rounds=5" in node.argv
        # A salt's plain update is the reference's.
        assert (set(beside) <= {*node.argv}) == (name in ("wide", "slm"))


@dataclasses.dataclass(frozen=True)
class Samples:
    """A user's measure: what a run writes after some words."""

    def commands(self, run):
        yield Command(
            name="samples",
            command="generate",
            options=("--export={self}/export", "--prompt=The"),
            reads_gin=False,
        )


def test_a_measure_is_any_class_that_yields_commands():
    node = planned(measures=(Samples(),)).nodes["salt/seed-0/samples"]
    assert node.argv[1] == "--export=runs/x/salt/seed-0/export"
    assert node.needs == ("salt/seed-0/export",)


STARTED = "config.Experiment.initial_export='{}/export'"


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (varied("a", "TEACHER='{typo}/export'"), ["{typo}", "seed, self, slm"]),
        (varied("a", "TEACHER='{slm}'"), ["'a'", "/run, /export or /export-STEP"]),
        (varied("a", "SCORES='{scores}/export'"), ["/scores has to follow"]),
        (
            Vary(
                of=BASELINE,
                arms={"b": (STARTED.format("{c}"),), "c": (STARTED.format("{b}"),)},
            ),
            ["b needs c needs b"],
        ),
        (
            varied("a", STARTED.format("{slm}"), "SEED=1000", of=BASELINE),
            ["'a'", "'slm'", "=1000"],
        ),
        (varied("a", "TOTAL_STEP=5"), ["Arm 'a'", "TOTAL_STEP"]),
        (varied("a", "N_KD=5", of=BASELINE), ["Arm 'a'", "N_KD"]),
        (varied("a", "N_KD=5.0"), ["Arm 'a'", "write 5"]),
        (Arm(name="a", gin_files="gin/slim.gin"), ["Arm 'a'", "gin/slim.gin"]),
        (
            Arm(name="a", gin_files="tiny_score.gin", seed_binding="SEQ_LEN=8"),
            ["Arm 'a'", "tiny_score.gin binds Scoring, not Experiment"],
        ),
    ],
)
def test_what_cannot_run_is_refused_with_the_arm_before_anything_runs(arm, said):
    with pytest.raises((ValueError, FileNotFoundError)) as no:
        planned(arms=(BASELINE, arm), scores=(SCORES,))
    assert all(each in str(no.value) for each in said), no.value


def test_every_seed_is_read_if_an_arm_s_own_binding_names_it():
    of_seed = varied("a", "N_KD={seed}00")
    assert planned(arms=(BASELINE, of_seed), seeds=(3, 5)).nodes
    with pytest.raises(ValueError, match=r"Arm 'a' with seed 9: .*900"):
        planned(arms=(BASELINE, of_seed), seeds=(3, 9))
    read = []
    once = dataclasses.replace(
        reading(), load=lambda *gin: read.append(gin) or reading().load(*gin)
    )
    plan(lab(seeds=(0, 1, 2)), once)
    assert len(read) == 3  # Two arms and a small model.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": (BASELINE, BASELINE)}, "two of the name 'baseline'"),
        ({"arms": (BASELINE, varied("slm"))}, "two of the name 'slm'"),
        ({"reference": "basline"}, "basline.* baseline, salt"),
        ({"seeds": (0, 0)}, "distinct"),
        ({"seeds": ()}, "distinct"),
        ({"root": "runs/"}, "slash"),
        ({"name": "a/b"}, "a/b"),
    ],
)
def test_a_lab_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        lab(**changes)


@pytest.mark.parametrize("name", ["a/b", "done", "self", "with space", "", 7])
def test_the_name_of_an_arm_names_a_folder(name):
    with pytest.raises(ValueError, match="names a folder"):
        Arm(name=name, gin_files="gin/tiny_baseline.gin")


def test_a_binding_is_a_name_and_a_value():
    with pytest.raises(ValueError, match="'SEED' is not a binding NAME=VALUE"):
        Arm(name="a", gin_files="gin/tiny_baseline.gin", bindings=("SEED",))


def test_the_file_of_a_lab_says_what_a_report_needs(tmp_path):
    value = lab(
        root=str(tmp_path),
        seeds=(0, 3),
        arms=(BASELINE, varied("ds", *DS)),
        scores=(SCORES,),
        measures=(FewShot(tasks=("embedded",)),),
    )
    found = plan(value, reading())
    lab_file.write(value, found)
    read = lab_file.read(tmp_path / "reports/try")
    assert (read.name, read.reference, list(read.seeds)) == ("try", "baseline", [0, 3])
    baseline, ds = read.arms
    assert baseline.needs == {"0": [], "3": []}
    assert ds.needs["3"] == ["slm/seed-3/run", "scores/seed-3/scores"]
    assert ds.folders["3"] == f"{tmp_path}/ds/seed-3/run"
    assert ds.few_shot["0"] == {"600": f"{tmp_path}/ds/seed-0/few_shot-600"}
    assert read.scores[0].folders["0"] == f"{tmp_path}/scores/seed-0/scores"
    assert [node.name for node in read.nodes] == [*found.nodes]


def test_the_lab_of_the_repository_is_read_from_gin():
    value = gin_config.load(["gin/lab_tiny.gin"], ["lab.Lab.seeds = (5,)"])
    assert (value.name, value.seeds) == ("tiny", (5,))
    assert [arm.name for arm in value.arms] == ["baseline", "salt"]


def test_the_reference_comes_first():
    names = list(planned(reference="salt").nodes)
    assert names.index("salt/seed-0/run") < names.index("baseline/seed-0/run")

import json
import pathlib
import random
import re
import sys
import types

import datasets
import numpy as np
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from salt_jax.data import embedded
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.few_shot import harness
from salt_jax.few_shot import tasks as tasks_module
from salt_jax.few_shot.known_tasks import KNOWN
from salt_jax.few_shot.metrics import task_metrics
from salt_jax.few_shot.tasks import SEED, Tasks, _all_tasks, check_room, load_tasks
from tests import runs

FOLDER = pathlib.Path(embedded.resolve("embedded:evals"))
DATA = {path.parent.name: path.parent for path in FOLDER.rglob("test.jsonl")}
MAX_LENGTH = 256  # Of the demo's models.


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Whatever the folder, and with nobody to ask.
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setattr(datasets, "load_dataset", no_network)
        return load_tasks(["embedded", "hyperbaton_pairs"])


def no_network(path, **_):
    raise ConnectionError(f"Couldn't reach {path!r} on the Hub.")


@pytest.fixture(scope="module")
def asked(tasks):
    """The contexts and answers that each task asks for."""
    for task in tasks.tasks.values():
        task.set_fewshot_seed(SEED)
        task.build_all_requests()
    return {
        name: [request.args for request in task.instances]
        for name, task in tasks.tasks.items()
    }


def lines(name, split):
    path = DATA[name] / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_data_that_is_here_is_asked_for(tasks):
    assert set(tasks.tasks) == {*DATA, "hyperbaton_pairs"} and len(DATA) == 14
    for name in DATA:
        assert len(tasks.tasks[name].eval_docs) == len(lines(name, "test"))


def test_a_group_is_the_four_own_tasks_and_the_group_of_big_bench(tasks):
    assert "embedded" in tasks.groups
    assert tasks.groups["embedded"].child_names[-1] == "embedded_bigbench"
    own = {path.name for path in FOLDER.iterdir() if (path / "test.jsonl").exists()}
    assert set(tasks.groups["embedded"].child_names[:-1]) == own


def test_chance_and_metric_are_those_of_the_table_beside_the_data(tasks):
    said = {}
    for line in (FOLDER / "README.md").read_text().splitlines():
        if name := re.match(r"\| `(?:bigbench/)?(\w+)`", line):
            metric, chance = [cell.strip() for cell in line.split("|")][4:6]
            metric = re.split("[,;]", metric.removeprefix("greedy "))[0]
            said[name[1]] = metric, float(chance.split(" %")[0]) / 100
    metrics = {"acc": "accuracy", "acc_bytes": "accuracy"}
    found = {
        x.task: (metrics.get(x.metric, "exact match"), pytest.approx(x.chance))
        for x in task_metrics(tasks.tasks, tasks.groups)
        if x.is_first
    }
    del found["hyperbaton_pairs"]
    assert said == found


def test_examples_are_of_the_pool_and_never_of_the_test(asked):
    for name, shots in ("country_capital", 3), ("anachronisms", 1):
        pool = {x["context"] for x in lines(name, "train")}
        test = [x["context"] for x in lines(name, "test")]
        for context, *_ in asked[name]:
            parts = context.split("\n\n")
            assert len(parts) == shots + 1 and parts[-1] in test
            assert all(any(part.startswith(x) for x in pool) for part in parts[:-1])


@pytest.mark.parametrize(
    ("name", "context", "answer"),
    [
        ("last_word_cloze", "{context}", " {target}"),
        ("dm_mathematics", "{question}\n", "{answer}\n"),
        ("next_sentence_choice", "{context}", " {choices[0]}"),
        ("cause_and_effect", "", "{choices[0]}"),
        ("hyperbaton", "{context}", " {choices[0]}"),
    ],
)
def test_a_question_is_put_as_the_data_says(name, context, answer, asked):
    first = lines(name, "test")[0]
    found, continuation = asked[name][0]
    assert found.endswith(context.format(**first))
    assert continuation == answer.format(**first)


def test_questions_of_mathematics_follow_one_another_as_in_the_training_text(asked):
    pool = [
        f"{x['question']}\n{x['answer']}\n" for x in lines("dm_mathematics", "train")
    ]
    question = lines("dm_mathematics", "test")[0]["question"]
    context = asked["dm_mathematics"][0][0].removesuffix(f"{question}\n")
    assert any(context == a + b for a in pool for b in pool)


def test_what_is_asked_fits_the_models_of_the_demo(asked):
    encode = Vocabulary.open(runs.VOCABULARY).encode
    for name, requests in asked.items():
        few = random.Random(0).sample(requests, min(100, len(requests)))
        room = MAX_LENGTH - 8 if "past_tense" in name else MAX_LENGTH
        texts = [context + str(end) * (type(end) is str) for context, end in few]
        cut = sum(len(encode(text)) > room for text in texts)
        # One passage in nine is longer, and its beginning is cut.
        assert cut <= (0.2 if name == "last_word_cloze" else 0.03) * len(few), name


def test_as_many_examples_as_are_asked_for_where_a_task_has_any():
    found = load_tasks(["country_capital", "cause_and_effect"], num_fewshot=2).tasks
    shots = {name: task.get_config("num_fewshot") for name, task in found.items()}
    assert shots == {"country_capital": 2, "cause_and_effect": 0}


def test_more_examples_than_there_are_is_refused():
    with pytest.raises(
        ValueError, match="=5: english_proverbs has examples for 0 to 4"
    ):
        load_tasks(["english_proverbs"], num_fewshot=5)


def test_a_task_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="names 'country_capital' twice"):
        load_tasks(["country_capital", "hyperbaton", "country_capital"])


def test_a_task_that_a_named_group_holds_is_refused():
    with pytest.raises(ValueError, match="'hyperbaton': found in both 'embedded'"):
        load_tasks(["embedded", "hyperbaton"])


def test_questions_that_are_shuffled_by_what_all_share_are_the_same_each_time(
    monkeypatch,
):
    drawn = []

    def shuffling(*_):
        drawn.append((random.random(), np.random.random()))
        return {"tasks": {}, "groups": {}}

    monkeypatch.setattr(TaskManager, "load", shuffling)
    random.seed(5)
    for _ in range(2):
        load_tasks(["country_capital"])
    expected = random.Random(0).random(), np.random.RandomState(1234).random_sample()
    assert drawn[::2] == [expected, expected]  # Of two draws each time, the first.


def test_each_model_is_asked_from_the_same_seeds(monkeypatch):
    drawn = []

    def shuffling(*_, **__):
        drawn.append((random.random(), np.random.random()))

    monkeypatch.setattr(harness.lm_eval.evaluator, "evaluate", shuffling)
    for _ in range(2):
        harness.ask(None, Tasks({}, {}, {}), limit=None)
    assert drawn[0] == drawn[1]


def test_tasks_whose_answers_a_model_has_no_room_for_are_refused_by_name(tasks):
    found = tasks.tasks
    check_room(found, 10, "small")
    with pytest.raises(
        ValueError, match="9 with the prompt: past_tense.* [(]8[)]"
    ) as error:
        check_room(found, 9, "small")
    assert "past_tense_irregular (8), past_tense_regular (8)." in str(error.value)
    assert "last_word_cloze" not in str(error.value)


class OfItsOwn(ConfigurableTask):
    """A task that asks in its own way, whatever its file says."""

    OUTPUT_TYPE = "generate_until"

    def __init__(self):
        pass

    def construct_requests(self, doc, ctx, **_):
        raise NotImplementedError


def test_of_a_task_that_asks_in_its_own_way_its_file_is_not_believed():
    check_room({"scrolls_quality": OfItsOwn()}, 64, "small")
    with pytest.raises(ValueError, match=r"squadv2 \(256\)"):
        check_room({"squadv2": OfItsOwn()}, 257, "small")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'sklearn'", name="sklearn.metrics"),
            "'x' needs a package that is not installed: No module named 'sklearn': pip "
            "install scikit-learn.",
        ),
        (Exception("Please install unitxt"), "'x' cannot be loaded: Please install"),
    ],
)
def test_a_task_that_lacks_a_package_is_refused_with_what_to_install(error, said):
    manager = types.SimpleNamespace(load=failing(error))
    with pytest.raises(ValueError, match=re.escape(said)):
        tasks_module._load(manager, ["x"])


def test_an_error_of_another_kind_is_not_taken_for_a_lack():
    manager = types.SimpleNamespace(load=failing(KeyError("answers")))
    with pytest.raises(KeyError):
        tasks_module._load(manager, ["x"])


def failing(error):
    def load(names):
        raise error

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"), [("record", "transformers"), ("xsum", "unitxt")]
)
def test_what_a_task_of_lm_eval_lacks_is_said(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [x for x in sys.modules if x.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"'{name}' .*pip install {package}"):
        load_tasks([name])


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_those_close_to_it():
    with pytest.raises(
        ValueError, match=r"no task 'hyperbatom'; .* hyperbaton"
    ) as error:
        load_tasks(["hyperbatom"])
    assert "embedded" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["race", "paper_all"])
def test_a_task_whose_data_is_not_here_is_refused(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(ValueError, match=f"task '{name}' is not cached.*HF_HOME"):
        load_tasks([name])


@pytest.mark.slow
def test_groups_of_the_paper_hold_tasks_that_there_are():
    index = _all_tasks(str(FOLDER)).task_index
    groups = [name for name in index if name.startswith("paper_")]
    assert len(groups) == 7
    for name in groups:
        config = index[name].cfg
        assert all(child in index for child in config["task"])
        metrics = config["metadata"].get("metric", {})
        assert not {"chance", "percent"} & set(config["metadata"])
        assert set(metrics) <= set(config["task"])
    assert set(KNOWN) <= set(index)

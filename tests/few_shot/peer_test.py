"""Beside lm-eval's own backend for models of transformers."""

import pathlib

import jax
import pytest

import salt_jax
from salt_jax.few_shot.harness import ask
from salt_jax.few_shot.language_model import SaltLM
from salt_jax.few_shot.tasks import load_tasks
from salt_jax.storage.export import Export
from salt_jax.storage.loaded import LoadedModel
from tests import runs

MAX_LENGTH = 192
ASSETS = pathlib.Path(salt_jax.__file__).parent / "assets"
TASKS = sorted(x.parent.name for x in ASSETS.glob("evals/**/test.jsonl"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Both models' results, of the same parameters and the same questions."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from salt_jax.hugging_face.exporting import export_to_hugging_face

    folder = tmp_path_factory.mktemp("peer")
    runs.make_teacher(folder / "export")
    export = Export.open(folder / "export")
    export_to_hugging_face(
        export, folder / "hf", dtype="float32", max_length=MAX_LENGTH
    )
    devices = jax.devices()[:1]
    loaded = LoadedModel.open(export.path, max_length=MAX_LENGTH, devices=devices)
    theirs = huggingface.HFLM(
        pretrained=str(folder / "hf"),
        device="cpu",
        dtype="float32",
        batch_size=4,
        max_length=MAX_LENGTH,
        add_bos_token=True,
    )
    tasks = load_tasks(TASKS)
    ours = SaltLM(loaded, batch_size=4)
    return ask(ours, tasks, limit=4), ask(theirs, tasks, limit=4)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_answers_and_marks_are_those_of_the_exported_model(task, answers):
    ours, theirs = (said["samples"][task] for said in answers)
    assert len(ours) == len(theirs) == 4
    for own, other in zip(ours, theirs, strict=True):
        assert own["arguments"] == other["arguments"]
        pairs = zip(own["filtered_resps"], other["filtered_resps"], strict=True)
        for found, expected in pairs:
            if isinstance(found, str):
                assert found == expected
            else:
                assert found[0] == pytest.approx(expected[0], rel=1e-4)
                assert found[1] == expected[1]
    marks = [numbers(said["results"][task]) for said in answers]
    assert marks[0] == pytest.approx(marks[1], rel=1e-4)


def numbers(marks):
    return {name: x for name, x in marks.items() if isinstance(x, int | float)}

import json
import re

import pytest

from salt_jax.files.records import write_record
from salt_jax.report import after_training
from tests import runs, sealed


def rows(html):
    """Returns the text of each table row's cells."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found]


def few_shot_row(name, metric="acc", part="", **fields):
    mark = {"value": 0.255, "stderr": 0.02}
    marks = {"slm": mark, "salt_ds": {"value": 0.5, "stderr": None}}
    row = {"name": name, "metric": metric, "part": part, "marks": marks}
    counts = {"examples": 1500, "shots": 2, "chance": 0.25, "is_share": True}
    return row | counts | fields


@pytest.fixture
def asked(tmp_path):
    def write(**tables):
        write_record(tmp_path / "few_shot.json", tables)
        return tmp_path

    return write


def test_few_shot_numbers_stand_with_their_errors_and_with_chance(asked):
    bits = few_shot_row("cloze", "bits", is_share=False, chance=None)
    folder = asked(tasks=[few_shot_row("next"), bits])
    assert rows(after_training.few_shot(folder)) == [
        ["Task", "Metric", "Examples", "Shots", "Chance", "slm ± SE", "salt_ds ± SE"],
        ["next", "acc", "1,500", "2", "25.0", "25.5 ± 2.0", "50.0"],
        ["cloze", "bits", "1,500", "2", "", "0.255 ± 0.020", "0.50"],
    ]


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.2537313, 0.0123456, "0.254 ± 0.012"),
        (123.456, 4.5, "123.5 ± 4.5"),
        (0.2537313, None, "0.25"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (17.25, 120.0, "17 ± 120"),
    ],
)
def test_a_number_is_rounded_to_two_digits_of_its_error(asked, value, stderr, shown):
    marks = {"slm": {"value": value, "stderr": stderr}}
    row = few_shot_row("bits", is_share=False, marks=marks)
    assert rows(after_training.few_shot(asked(tasks=[row])))[1][-1] == shown


def test_means_of_groups_stand_out(asked):
    mean = few_shot_row("embedded", "mean", examples=None, shots=None)
    html = after_training.few_shot(asked(tasks=[few_shot_row("next"), mean]))
    assert html.count('<tr class="total"><th scope="row">embedded') == 1


def test_slices_are_shown_by_part_where_there_are_any(asked):
    assert "by the teacher" not in after_training.few_shot(
        asked(tasks=[few_shot_row("next")])
    )
    sliced = [few_shot_row("next", part=part) for part in ("easy", "hard")]
    html = after_training.few_shot(asked(tasks=[few_shot_row("next")], slices=sliced))
    assert [row[2] for row in rows(html)[-2:]] == ["easy", "hard"]


def test_what_was_not_asked_is_refused_with_the_command_that_asks(tmp_path):
    message = "No few_shot.json in .*command 'evaluate --tasks'"
    with pytest.raises(FileNotFoundError, match=message):
        after_training.few_shot(tmp_path)


def fine_tuned_run(folder, start, exact):
    folder.mkdir()
    means = {"questions": 10, "exact_match": exact, "f1": 0.5, "rougeL": 0.25}
    means |= {"loss": 2.0}
    columns = {"kind": {"new": means | {"questions": 4}, "old": means}}
    columns["field"] = {f"field {i}": means for i in range(5)}
    data = {"source": "embedded:sft/facts"}
    files = {
        "experiment": {
            "seed": 0,
            "stages": [{"name": "tune", "end_step": 5, "data": data}],
            "initial_export": f"there/{start}",
        },
        "evaluation": {
            "step": 5,
            "splits": {"test": {"total": means, "columns": columns}},
        },
        "samples": {
            "samples": [
                {"question": "Where?", "answer": f"<{start}>", "wanted": "Here"}
            ]
        },
    }
    for name, content in files.items():
        write_record(folder / f"{name}.json", content)
    return folder


def test_fine_tuned_students_stand_side_by_side_on_each_set(tmp_path):
    html = after_training.fine_tuned(
        [fine_tuned_run(tmp_path / "a", "baseline", 0.1),
         fine_tuned_run(tmp_path / "b", "salt", 0.2)]
    )  # fmt: skip
    header, test, beside, new, _, old, _ = rows(html)
    assert header[:4] == ["Questions", "Number", "Start", "Exact match, % ± SE"]
    # The standard error of a share of 10 questions: sqrt(0.1 * 0.9 / 10).
    assert test[:4] == ["test", "10", "baseline", "10.0% ± 9.5"]
    assert beside[:4] == ["", "", "salt", "20.0% ± 12.6"]
    # Of five fields none is shown: there are too many for a page.
    assert (new[:2], old[0]) == (["test: new", "4"], "test: old")
    assert "facts, from salt" in html
    assert "Answer:   &lt;salt&gt;" in html


def test_runs_that_cannot_stand_side_by_side_are_refused(tmp_path):
    first = fine_tuned_run(tmp_path / "a", "export", 0.1)
    same = fine_tuned_run(tmp_path / "b", "export", 0.9)
    with pytest.raises(ValueError, match="b is a second run on facts that started"):
        after_training.fine_tuned([first, same])
    other = fine_tuned_run(tmp_path / "c", "salt", 0.2)
    sealed.replace(other / "evaluation.json", '"questions": 4', '"questions": 5')
    with pytest.raises(ValueError, match="c was evaluated on other questions of facts"):
        after_training.fine_tuned([first, other])


def test_the_page_says_where_exports_are_of_either_kind(tmp_path):
    runs.make_teacher(tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 7}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    html = after_training.exports([tmp_path / "ours", tmp_path / "theirs"])
    assert rows(html)[1:] == [
        [f"{tmp_path}/ours", "3", "1", "Orbax, float32"],
        [f"{tmp_path}/theirs", "", "7", "Hugging Face, LlamaForCausalLM"],
    ]
    with pytest.raises(FileNotFoundError, match="No export at"):
        after_training.exports([tmp_path / "nowhere"])

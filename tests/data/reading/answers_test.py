import dataclasses
import gzip
import json
import logging

import numpy as np
import pytest

from salt_jax.config import Answering, Validation
from salt_jax.data.corpora.document import Limits
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary

VOCABULARY = "embedded:tokenizer/spm_4k.model"
FACTBOOK = "embedded:sft/factbook_qa_sft"
RECORDS = [
    {"question": "What is 2 + 2?", "answer": "4", "level": "easy", "label": 0},
    {"question": "Say {this}. " * 9, "answer": "no", "level": "hard", "label": 1},
]


@pytest.fixture
def folder(tmp_path):
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / "train.jsonl").write_text(lines)
    return tmp_path


def answers(folder, **changes):
    return Answers(source=str(folder), vocabulary=VOCABULARY, **changes)


def texts(example):
    vocabulary = Vocabulary.open(VOCABULARY)
    return vocabulary.decode(example.inputs), vocabulary.decode(example.targets)


def test_a_question_ends_with_a_newline_and_an_answer_with_the_end(folder):
    first, _ = answers(folder).read(seq_len=256)
    assert texts(first.example) == ("What is 2 + 2?\n", "4")
    eos = Vocabulary.open(VOCABULARY).eos_id
    assert first.example.targets[-1] == eos and eos not in first.example.inputs


def test_templates_put_fields_where_they_say_and_leave_braces_in_them_alone(folder):
    data = answers(folder, question="[{level}] {question}", answer="= {answer}")
    first, second = data.read(seq_len=256)
    assert (first.question, first.answer) == ("[easy] What is 2 + 2?", "= 4")
    assert second.question.startswith("[hard] Say {this}.")


def test_a_number_stands_for_its_label_or_without_labels_for_itself(folder):
    labeled = answers(folder, answer="{label}", labels=("yes", "no"))
    assert [x.answer for x in labeled.read(seq_len=256)] == ["yes", "no"]
    plain = answers(folder, answer="{label}")
    assert [x.answer for x in plain.read(seq_len=256)] == ["0", "1"]


def test_a_number_without_a_label_is_refused(folder):
    data = answers(folder, answer="{label}", labels=("yes",))
    with pytest.raises(ValueError, match="'label' is the number 1, and labels names 1"):
        data.read(seq_len=256)


def test_columns_are_kept_beside_the_tokens(folder):
    found = answers(folder, columns=("level",)).read(seq_len=256)
    assert [x.columns for x in found] == [{"level": "easy"}, {"level": "hard"}]


def test_the_embedded_sets_are_read_in_full():
    for split, count in ("train", 2000), ("val", 210), ("test", 380):
        data = Answers(source=FACTBOOK, vocabulary=VOCABULARY, split=split)
        assert len(data.read(seq_len=256)) == count


def test_many_examples_keep_their_order(tmp_path):
    lines = [json.dumps({"question": f"q{i}", "answer": f"a{i}"}) for i in range(1500)]
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = answers(tmp_path).read(seq_len=64)
    assert [x.answer for x in found] == [f"a{i}" for i in range(1500)]


def test_what_is_too_long_is_refused_with_how_many_and_how_long(folder):
    longest = max(x.num_tokens for x in answers(folder).read(seq_len=256))
    message = rf"1 of 2 questions .* row of 24 tokens, the longest {longest}: raise"
    with pytest.raises(ValueError, match=message):
        answers(folder).open_rows(seq_len=24, seed=0)


def test_what_fills_a_row_exactly_fits(folder):
    longest = max(x.num_tokens for x in answers(folder).read(seq_len=256))
    assert len(answers(folder).read(seq_len=longest)) == 2


def test_what_is_too_long_may_be_dropped_in_one_line(folder, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        found = answers(folder, too_long="drop").read(seq_len=24)
    assert [x.answer for x in found] == ["4"]
    assert len(caplog.messages) == 1 and "dropped" in caplog.messages[0]


def test_what_is_too_long_may_lose_the_end_of_its_question(folder, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        short, cut = answers(folder, too_long="cut_question").read(seq_len=24)
    assert len(caplog.messages) == 1 and "truncated" in caplog.messages[0]
    assert short.example.inputs.tolist() == (
        answers(folder).read(seq_len=256)[0].example.inputs.tolist()
    )
    assert cut.num_tokens == 24
    inputs, targets = texts(cut.example)
    assert inputs.startswith("Say {this}") and inputs.endswith("\n")
    assert targets == "no"


def test_an_answer_that_alone_is_too_long_is_left_out_and_not_cut(folder, caplog):
    data = answers(folder, question="{answer}", answer="{question}")
    with caplog.at_level(logging.INFO, logger="absl"):
        found = dataclasses.replace(data, too_long="cut_question").read(seq_len=24)
    assert [x.question for x in found] == ["4"]
    assert "truncated; 1 whose answers alone do not fit are dropped" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"too_long": "cut"}, "too_long='cut' is not one of refuse, drop"),
        ({"question": "What?"}, "question='What\\?' names no field"),
        ({"answer": "{a b}"}, "has {a b}, which is not the name"),
        ({"answer": "{answer"}, "is no template"),
        ({"answer": "{reply}"}, "train.jsonl:1 has no field 'reply'; it has question"),
        ({"columns": ("kind",)}, "train.jsonl:1 has no field 'kind'"),
    ],
)
def test_what_does_not_fit_the_records_is_refused(change, message, folder):
    with pytest.raises(ValueError, match=message):
        answers(folder, **change).read(seq_len=256)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "train.jsonl:3 is not JSON"),
        ("[1]", "train.jsonl:3 is not a JSON object"),
        ('{"question": "a", "answer": ["b"]}', "train.jsonl:3: 'answer' is list"),
    ],
)
def test_a_line_that_is_no_record_is_refused_by_its_number(line, message, folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        answers(folder).read(seq_len=256)


def test_a_missing_split_is_refused_with_what_is_there(folder):
    with pytest.raises(FileNotFoundError, match=r"No test.jsonl in .* is train.jsonl"):
        answers(folder, split="test").read(seq_len=256)


def test_a_split_without_questions_is_refused(folder):
    (folder / "val.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="val has no question to read"):
        answers(folder, split="val").read(seq_len=256)


def test_only_questions_can_be_asked():
    prepared_text = PreparedText(path="/data", vocabulary=VOCABULARY)
    answering = Answering(max_new_tokens=8, num_questions=4)
    with pytest.raises(ValueError, match="data to be Answers, got a PreparedText"):
        Validation(data=prepared_text, every=1, num_sequences=1, answering=answering)


def test_rows_are_the_questions_of_the_split(folder):
    rows = answers(folder).open_rows(seq_len=256, seed=0)
    assert rows.rows_per_epoch == 1
    assert sorted(rows.ids(np.array([0]))[0].tolist()) == [0, 1]


def test_fields_may_have_dots_in_their_names_or_stand_in_others(folder):
    record = {"q.one": "Who?", "meta": {"answer": "He.", "kind": "short"}}
    (folder / "train.jsonl").write_text(json.dumps(record))
    data = answers(
        folder, question="{q.one}", answer="{meta.answer}", columns=("meta.kind",)
    )
    (found,) = data.read(seq_len=256)
    assert (found.question, found.answer) == ("Who?", "He.")
    assert found.columns == {"meta.kind": "short"}


def test_half_of_a_surrogate_pair_is_refused_by_its_line(folder):
    line = '{"question": "half \\ud83d", "answer": "x"}'
    (folder / "train.jsonl").write_text(f"\n{json.dumps(RECORDS[0])}\n{line}\n")
    with pytest.raises(ValueError, match=r"train.jsonl:3: 'question' has half of a"):
        answers(folder).read(seq_len=256)


def test_a_split_that_is_there_twice_is_refused_by_both_names(folder):
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"train.jsonl and as train.jsonl.gz"):
        answers(folder).read(seq_len=256)


def test_a_line_beyond_the_limit_is_refused_by_its_number(folder):
    limits = Limits(max_document_bytes=50)
    with pytest.raises(ValueError, match=r"train.jsonl:1 .*max_document_bytes=50"):
        answers(folder, limits=limits).read(seq_len=256)

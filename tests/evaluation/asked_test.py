import json
import logging

import pytest

from salt_jax.config import Answering
from salt_jax.data.reading.answers import Answers
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.asked import spread, with_room

VOCABULARY = "embedded:tokenizer/spm_4k.model"


@pytest.fixture
def folder(tmp_path):
    records = [{"question": "why? " * n, "answer": "so"} for n in range(1, 9)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "train.jsonl").write_text(lines)
    return tmp_path


def fitted(folder, too_long, max_new_tokens=16, seq_len=32):
    data = Answers(source=str(folder), vocabulary=VOCABULARY, too_long=too_long)
    answering = Answering(max_new_tokens=max_new_tokens, num_questions=8)
    return with_room(data.read(seq_len=seq_len), data, answering, seq_len)


def lengths(questions):
    return [len(question.example.inputs) for question in questions]


def test_questions_are_spread_over_all_of_a_split():
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread([], 5) == []


def test_questions_with_room_for_an_answer_are_asked_as_they_are(folder):
    found = fitted(folder, "refuse", max_new_tokens=4, seq_len=64)
    assert len(found) == 8 and found[0].question == "why? "


def test_a_question_without_room_for_an_answer_is_refused_with_the_numbers(folder):
    message = r"has \d+ tokens, and max_new_tokens=16 leaves 16 of the 32 "
    with pytest.raises(ValueError, match=message):
        fitted(folder, "refuse")


def test_a_question_without_room_for_an_answer_may_be_cut(folder):
    found = fitted(folder, "cut_question")
    assert len(found) == 8 and max(lengths(found)) == 16
    newline = Vocabulary.open(VOCABULARY).encode("\n")
    assert all(x.example.inputs[-1:].tolist() == newline for x in found)


def test_a_question_without_room_for_an_answer_may_be_left_out(folder, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        found = fitted(folder, "drop")
    assert 0 < len(found) < 8 and max(lengths(found)) <= 16
    assert f": {8 - len(found)} questions" in caplog.messages[-1]


@pytest.mark.parametrize("too_long", ["drop", "cut_question"])
def test_no_room_at_all_is_refused(too_long, folder):
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        fitted(folder, too_long, max_new_tokens=32)

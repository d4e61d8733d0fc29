import pytest

from salt_jax.generation.prompts import prompts_of


def test_lines_that_only_look_like_json_are_prompts_themselves():
    assert prompts_of('{"a": 1}\n\n[1]\n') == ['{"a": 1}', "[1]"]


def test_a_line_ends_where_files_of_lines_end_it():
    assert prompts_of('{"prompt": "a\u2028b"}\r\n{"prompt": "c"}') == ["a\u2028b", "c"]
    assert prompts_of("a\u2028b\r\nc") == ["a\u2028b", "c"]


def test_prompts_are_all_json_or_none():
    with pytest.raises(ValueError, match="""line 3 is not: '{"text": "b"}'."""):
        prompts_of('{"prompt": "a"}\n\n{"text": "b"}')


def test_a_byte_order_mark_hides_no_json():
    assert prompts_of('\ufeff{"prompt": "a"}\n{"prompt": "b"}\n') == ["a", "b"]
    assert prompts_of("\ufeffa\nb") == ["a", "b"]


@pytest.mark.parametrize(
    "text", ['{"prompt": "a"}\n\n{"prompt": "\\ud83d"}', "a\n\n\ud83d"]
)
def test_half_of_a_surrogate_pair_is_refused_by_file_and_line(text):
    with pytest.raises(ValueError, match=r"Line 3 of p.jsonl has half of a surrogate"):
        prompts_of(text, where="p.jsonl")


def test_what_is_nested_too_deeply_to_be_json_is_text():
    deep = '{"prompt":' + "[" * 200_000
    assert prompts_of(deep) == [deep]

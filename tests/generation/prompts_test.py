import pytest

from salt_jax.generation.prompts import prompts_of


def test_lines_that_only_look_like_json_are_prompts_themselves():
    assert prompts_of('{"a": 1}\n\n[1]\n') == ['{"a": 1}', "[1]"]


def test_a_line_ends_where_files_of_lines_end_it():
    assert prompts_of('{"prompt": "a\u2028b"}\r\n{"prompt": "c"}') == ["a\u2028b", "c"]
    assert prompts_of("a\u2028b\r\nc") == ["a\u2028b", "c"]


def test_prompts_are_all_json_or_none():
    with pytest.raises(ValueError, match="""number 2 is not: '{"text": "b"}'."""):
        prompts_of('{"prompt": "a"}\n{"text": "b"}')

"""Tests that a laboratory's tables replace only what stands between its marks."""

import pytest

from salt_jax.report.arms.in_document import put

PAGE = "Text\n<!-- lab dials -->\nold\n<!-- end of lab dials -->\nmore text\n"


def test_tables_replace_what_stood_between_the_marks_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE + PAGE.replace("dials", "starts"))
    put(page, "dials", "| new |")
    before, _, after = PAGE.partition("\nold\n")
    new = f"{before}\n\n| new |\n\n{after}"
    assert page.read_text() == new + PAGE.replace("dials", "starts")
    put(page, "dials", "| new |")
    assert page.read_text() == new + PAGE.replace("dials", "starts")


@pytest.mark.parametrize("lab, text", [("other", PAGE), ("dials", PAGE + PAGE)])
def test_a_document_without_the_marks_is_refused_and_stays(tmp_path, lab, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=f"page.md.*<!-- lab {lab} -->"):
        put(page, lab, "| new |")
    assert page.read_text() == text

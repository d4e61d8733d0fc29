"""What README and docs/ say exists, runs and is complete."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


@pytest.mark.slow
def test_the_examples_of_the_architecture_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs/architecture.md", "python")
    assert len(examples) == 7
    names = {"__name__": "architecture"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"architecture.md, example {number}", "exec"), names)

"""What README and docs/ say exists, runs and is complete."""

import pathlib
import re

import pytest

from salt_jax.data.scoring.score_columns import record_dtype
from salt_jax.evaluation.answer_scores import METRICS
from salt_jax.evaluation.held_out_text import DomainSums
from salt_jax.few_shot.measures import SHARES
from salt_jax.telemetry.time_sheet import TimeSheet

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    found = FENCED.findall(page.read_text())
    return [text for kind, text in found if kind == language]


def documented(heading):
    """Returns the names in the tables under a heading of docs/metrics.md."""
    text = (ROOT / "docs/metrics.md").read_text()
    section = text.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line[:3] == "| `"]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Training", TimeSheet(0.0, {}).record()),
        ("Training", [f"val_{name}" for name in METRICS]),
        ("Held-out", DomainSums().means()),
        ("Held-out", METRICS),
        ("Scores", record_dtype((1, 10, 50, 100)).names),
        ("Few-shot", SHARES),
    ],
)
def test_metrics_have_a_row_in_the_page(heading, names):
    assert {*names} <= documented(heading)


@pytest.mark.slow
def test_the_examples_of_the_architecture_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs/architecture.md", "python")
    assert len(examples) == 7
    names = {"__name__": "architecture"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"architecture.md, example {number}", "exec"), names)

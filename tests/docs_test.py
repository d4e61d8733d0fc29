"""What README and docs/ say exists, runs and is complete."""

import pathlib
import re
import shlex

import pytest

from salt_jax import gin_config
from salt_jax.commands import parser
from salt_jax.commands.lab import reading
from salt_jax.data.scoring.score_columns import record_dtype
from salt_jax.evaluation.answer_scores import METRICS
from salt_jax.evaluation.held_out_text import DomainSums
from salt_jax.few_shot.metrics import SHARES
from salt_jax.lab.planning import plan
from salt_jax.main import main
from salt_jax.symptoms.detectors import DETECTORS
from salt_jax.symptoms.selections import STARVED_DOMAIN
from salt_jax.telemetry.time_sheet import TimeSheet
from tests.layers_test import LAYERS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "salt_jax/assets/README.md",
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    found = FENCED.findall(page.read_text())
    return [text for kind, text in found if kind == language]


def commands(page):
    """Yields the arguments of each salt_jax command in the code of a page."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        found = re.match(r"    .*?(?:python -m salt_jax\.main|\bsalt_jax)( .*)", line)
        if found:
            yield shlex.split(found[1], comments=True)


TUTORIAL = ROOT / "docs/tutorial.md"
GIN_BLOCKS = {
    re.match(r"# (\S+):", block)[1]: block for block in blocks(TUTORIAL, "gin")
}
COMMANDS = [
    pytest.param(page, arguments, id=f"{page.name}: {' '.join(arguments)}")
    for page in PAGES
    for arguments in commands(page)
]


def test_the_pages_show_commands():
    names = {param.values[1][0] for param in COMMANDS}
    assert names == {*parser.COMMANDS}


@pytest.mark.parametrize("page, arguments", COMMANDS)
def test_a_command_that_a_page_shows_can_be_given(page, arguments):
    parser.parse(arguments)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--gin_file" and not value.startswith("/"):
            assert value in GIN_BLOCKS or (ROOT / value).is_file()


PATH = re.compile(r"\b(?:salt_jax|gin|launch|tests|docs)/[\w./*-]*[\w*/]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page):
    text = page.read_text()
    links = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in x]
    missing = [link for link in links if not (page.parent / link).exists()]
    code = " ".join(re.findall(r"`[^`]+`|^    .*$", text, re.MULTILINE))
    named = {x for x in PATH.findall(code) if not re.search(r"[/.]runs/|://", x)}
    missing += [x for x in named if not [*ROOT.glob(x.rstrip("/"))]]
    assert not missing


def write_tutorial(folder):
    """Writes the files of the tutorial into a folder."""
    (folder / "my").mkdir()
    for name, block in GIN_BLOCKS.items():
        (folder / name).write_text(block)
    (script,) = blocks(TUTORIAL, "python")
    (folder / "make_corpus.py").write_text(script)


@pytest.mark.parametrize(
    "name",
    sorted({*GIN_BLOCKS} - {f"my/{x}.gin" for x in ("common", "small", "large")}),
)
def test_a_gin_file_of_the_tutorial_can_be_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tutorial(tmp_path)
    assert gin_config.load([name])


# What makes the tutorial small enough for a test, by gin file.
FEW_STEPS = ["--gin.TOTAL_STEPS=4", "--gin.schedules.WarmupCosine.warmup_steps=1"]
SMALLER = {
    "my/slm.gin": [*FEW_STEPS, "--gin.config.Experiment.keep_steps=(2,)"],
    "my/salt.gin": [*FEW_STEPS, "--gin.N_KD=2"],
    "my/baseline.gin": FEW_STEPS,
    "my/score.gin": ["--gin.config.Scoring.pool=64"],
}


@pytest.mark.slow
def test_the_tutorial_works_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tutorial(tmp_path)
    script = (tmp_path / "make_corpus.py").read_text()
    exec(script.replace("MAX_FILES = 300", "MAX_FILES = 60"), {})
    for arguments in commands(TUTORIAL):
        if "_1" in " ".join(arguments):
            continue  # The second seed.
        arguments = [x.replace("--size=4096", "--size=1500") for x in arguments]
        arguments = [x.replace("--step=60", "--step=2") for x in arguments]
        files = [x.partition("=")[2] for x in arguments if x[:10] == "--gin_file"]
        smaller = [more for name in files for more in SMALLER.get(name, [])]
        assert main([*arguments, *smaller]) == 0, arguments
    assert (tmp_path / "my/report/report.html").is_file()


def test_the_laboratory_of_its_page_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "docs/lab.md", "gin")
    (tmp_path / "mine.gin").write_text(block)
    nodes = plan(gin_config.load(["mine.gin"]), reading()).nodes
    runs = {name for name in nodes if name.endswith("seed-2/run")}
    assert {name.split("/")[0] for name in runs} == {
        *("baseline", "salt", "salt_short", "salt_long", "better_teacher"),
        *("small", "longer"),
    }
    assert "salt/seed-0/few_shot-300" in nodes


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


def test_each_warning_has_a_row_that_says_what_to_do():
    text = (ROOT / "docs/warnings.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in text.splitlines()
        if line.count("|") == 6 and line.startswith("| `")
    ]
    assert {row[1].strip("`") for row in rows} == {*DETECTORS, STARVED_DOMAIN}
    assert all(len(cell) > 5 for row in rows for cell in row[1:6])


def test_the_diagram_of_the_architecture_has_the_rows_of_the_layers():
    (diagram,) = blocks(ROOT / "docs/architecture.md", "mermaid")
    rows = [{*row.split(" · ")} for row in re.findall(r'\["(.+?)"\]', diagram)]
    assert [row for row in LAYERS if len(row) > 1] == rows


@pytest.mark.slow
def test_the_examples_of_the_architecture_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs/architecture.md", "python")
    assert len(examples) == 13
    names = {"__name__": "architecture"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"architecture.md, example {number}", "exec"), names)

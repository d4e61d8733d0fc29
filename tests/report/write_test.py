import base64
import html
import html.parser
import json
import re

import pytest

from salt_jax.report.write import write_report
from salt_jax.telemetry.recorded_commands import record_command
from tests import sealed
from tests.compared_runs import worse_salt, write_run, write_step_times


def test_the_page_has_the_commands_of_each_directory_in_order(runs, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    settings = runs["slm"] / "experiment.json"
    sealed.replace(settings, '"type": "Text"', f'"path": "{data}", "type": ""')
    for directory, line in (
        (data, "prepare"),
        (runs["slm"], "train slm"),
        (runs["scores"], "score"),
        (runs["salt"], "train salt"),
        (runs["slm"], "train slm"),
        (runs["salt"], "evaluate 'a b'"),
    ):
        record_command(directory, line)
    text = write_report(tmp_path / "report", **runs, command="report").read_text()
    assert html.unescape(
        re.findall(r'<pre class="copy">(.*?)</pre>', text, re.S)[-1]
    ) == (
        f"# {runs['baseline']}: no command was recorded.\n"
        "prepare\nscore\ntrain salt\ntrain slm\nevaluate 'a b'\nreport"
    )


class Links(html.parser.HTMLParser):
    """Collects what a page links to, what it embeds, and its tables outside a box."""

    def __init__(self):
        super().__init__()
        self.links, self.sources, self.bare_tables, self._last = [], [], 0, None

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.bare_tables += tag == "table" and self._last != ("div", "wide")
        self._last = tag, attributes.get("class")


@pytest.mark.parametrize("change", [dict, worse_salt], ids=["passes", "does_not"])
def test_a_report_is_a_page_that_needs_nothing_else_and_its_figures(
    runs, change, tmp_path
):
    times = write_step_times(tmp_path / "times.json")
    path = write_report(
        tmp_path / "out" / "report",
        **change(runs),
        step_times=times,
        command="a && b",
    )
    text = path.read_text()
    names = {"loss_steps", "loss_flops", "loss_step_time", "kl", "domains"}
    assert {picture.stem for picture in path.parent.glob("*.svg")} == names
    links = Links()
    links.feed(text)
    embedded = [base64.b64decode(x.partition("base64,")[2]) for x in links.sources]
    assert {*embedded} == {(path.parent / f"{x}.svg").read_bytes() for x in names}
    assert {*links.links} == {f"{name}.json" for name in (*names, "step_times")}
    for name in links.links:
        assert json.loads((path.parent / name).read_text())
    assert links.bare_tables == 0
    assert not re.search(r"<script|<link|https?:|src=\"(?!data:)|url\(", text)
    assert "&lt;i&gt;salt" in text
    assert "a &amp;&amp; b" in text


def test_the_numbers_behind_the_figures_are_those_of_the_runs(runs, tmp_path):
    folder = write_report(tmp_path / "report", **runs).parent
    steps, kl, domains = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("loss_steps", "kl", "domains")
    )
    assert steps["held_out"]["SALT"] == {
        "steps": [50.0, 100.0],
        "flops": [600.0, 1200.0],
        "losses": [4.5, 3.5],
        "seconds": None,
    }
    assert steps["passing"]["share_of_flops"] == 0.9
    del kl["checksum"]
    assert kl == {"step": [10, 20, 30, 40], "kl": [0.1, 0.05, 1 / 30, 0.025]}
    assert domains["bits_per_byte"]["SLM"] == {"Github": 2.25, "KJV Bible": 2.75}


def test_figures_follow_the_theme_and_are_the_same_every_time(runs, tmp_path):
    first, again = (
        (write_report(tmp_path / name, **runs).parent / "loss_steps.svg").read_text()
        for name in ("first", "again")
    )
    assert first == again
    drawn = first.partition("</style>")[2]
    assert "prefers-color-scheme: dark" in first
    # Every color is a variable of the theme; 0 is the clip path's and the default's.
    assert {"--ink", "--salt", "--baseline"} <= set(re.findall(r"--\w+", drawn))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)
    assert "SALT 3.500" in drawn  # Text stays text.


def test_without_a_teacher_there_is_no_distance_to_draw(runs, tmp_path):
    path = write_report(tmp_path / "report", **runs | {"salt": runs["baseline"]})
    assert not (path.parent / "kl.svg").exists()
    assert "Distance from the teacher" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("evaluation.json", "evaluate"),
        ("samples.json", "evaluate"),
        ("experiment.json", "train"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused(name, command, runs, tmp_path):
    (runs["salt"] / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No {name} in .*command '{command}'"):
        write_report(tmp_path / "report", **runs)


def test_runs_evaluated_on_different_text_are_refused(runs, tmp_path):
    write_run(tmp_path / "other", (5.0, 4.0), 10.0, domains=("Github",))
    with pytest.raises(ValueError, match="different splits and domains"):
        write_report(tmp_path / "report", **runs | {"baseline": tmp_path / "other"})

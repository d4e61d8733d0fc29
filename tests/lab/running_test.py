import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from salt_jax.lab import markers
from salt_jax.lab.graph import Node
from salt_jax.lab.running import Runner

# Runs nodes whose argv is a program, of a JSON file, as the command lab does.
DRIVER = """
import json, sys
from salt_jax.lab.graph import Node
from salt_jax.lab.running import Runner
nodes = {node["name"]: Node(**node) for node in json.load(open(sys.argv[1]))}
say = lambda line: print(line, flush=True)
runner = Runner(nodes, sys.argv[2], lambda node: node.argv, "code", say)
outcome = runner.run(int(sys.argv[3]))
print(json.dumps([outcome.before, outcome.made, [*outcome.failed], outcome.blocked]))
sys.exit(outcome.stopped or 0)
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "root")


def shell(name, script, *needs, output=None):
    """Returns a node that notes that it ran, and then is a shell script."""
    script = f"echo {name} >> {pathlib.Path('ran').absolute()}; {script}"
    return Node(name=name, argv=("bash", "-c", script), needs=needs, output=output)


def run(root, *nodes, jobs=1, code="code"):
    said = []
    by_name = {node.name: node for node in nodes}
    runner = Runner(by_name, root, lambda node: node.argv, code, said.append)
    return runner.run(jobs), said


def ran():
    return pathlib.Path("ran").read_text().split() if os.path.exists("ran") else []


def driver(root, *nodes, jobs=1):
    """Starts another process that runs nodes."""
    path = pathlib.Path("nodes.json")
    path.write_text(json.dumps([vars(node) for node in nodes]))
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(path), root, str(jobs)],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(path):
    for _ in range(1200):
        if os.path.exists(path):
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear.")


def test_what_is_complete_is_not_run_again(root):
    nodes = shell("a", ":"), shell("b/c", "echo yes; echo maybe", "a")
    outcome, _ = run(root, *nodes)
    assert (outcome.made, outcome.before) == (["a", "b/c"], [])
    outcome, _ = run(root, *nodes)
    assert (outcome.made, outcome.before) == ([], ["a", "b/c"])
    assert ran() == ["a", "b/c"]
    marker = markers.complete(root, nodes[1])
    assert (marker.exit, marker.code, list(marker.argv)) == (
        0,
        "code",
        [*nodes[1].argv],
    )
    assert markers.log_of(root, "b/c").read_text() == "yes\nmaybe\n"


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(root):
    nodes = (
        *(shell("a", "echo no; echo; test -e mended"), shell("b", ":", "a")),
        *(shell("c", ":", "b"), shell("d", ":")),
    )
    outcome, _ = run(root, *nodes)
    assert (outcome.made, outcome.blocked) == (["d"], {"b": "a", "c": "a"})
    assert (outcome.failed["a"].exit, outcome.failed["a"].last_line) == (1, "no")
    pathlib.Path("mended").touch()
    outcome, _ = run(root, *nodes)
    assert (outcome.made, outcome.before) == (["a", "b", "c"], ["d"])
    assert ran() == ["a", "d", "a", "b", "c"]


def test_a_command_that_was_stopped_runs_once_more(root):
    outcome, _ = run(root, shell("a", "test -e twice || { touch twice; exit 75; }"))
    assert (outcome.made, outcome.stopped, ran()) == (["a"], None, ["a", "a"])


def test_a_command_that_was_stopped_twice_stops_the_lab(root):
    nodes = shell("a", "exit 75"), shell("b", ":")
    outcome, _ = run(root, *nodes)
    assert (outcome.made, outcome.failed, outcome.stopped) == ([], {}, 75)
    assert ran() == ["a", "a"]


def test_what_another_command_made_is_refused_by_its_words(root):
    run(root, shell("a", "echo old"))
    with pytest.raises(ValueError, match="^a was made by another.* old, .* new") as no:
        run(root, shell("first", ":"), shell("a", "echo new"))
    assert f"{root}/done/a.json" in str(no.value)
    assert ran() == ["a"]


def test_a_command_that_failed_may_change(root):
    run(root, shell("a", "exit 2"))
    outcome, _ = run(root, shell("a", ":"))
    assert outcome.made == ["a"]


def test_what_is_gone_is_made_again(root):
    node = shell("a", "mkdir made", output=os.path.abspath("made"))
    run(root, node)
    os.rmdir("made")
    outcome, _ = run(root, node)
    assert (outcome.made, ran()) == (["a"], ["a", "a"])


def test_another_version_of_the_code_is_said_and_not_refused(root):
    run(root, shell("a", ":"), code="older")
    outcome, said = run(root, shell("a", ":"), code="newer")
    assert outcome.before == ["a"]
    assert "1 of older; this is newer" in said[0]


def test_several_run_at_once_if_wanted(root):
    # Each waits for the other to have begun.
    nodes = [
        shell(x, f"touch at_{x}; until test -e at_{y}; do sleep 0.05; done")
        for x, y in (("a", "b"), ("b", "a"))
    ]
    outcome, _ = run(root, *nodes, jobs=2)
    assert sorted(outcome.made) == ["a", "b"]


SAVES = """trap 'echo saved; exit 75' TERM; touch begun
until test -e go_on; do sleep 0.05; done"""


def test_a_signal_is_passed_on_and_the_same_command_goes_on(root):
    nodes = shell("a", SAVES), shell("b", ":", "a")
    with driver(root, *nodes) as first:
        wait_for("begun")
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert first.returncode == 75
    assert markers.log_of(root, "a").read_text() == "saved\n"
    assert ran() == ["a"]
    pathlib.Path("go_on").touch()
    outcome, _ = run(root, *nodes)
    assert (outcome.made, ran()) == (["a", "b"], ["a", "a", "b"])


def test_a_signal_that_another_thread_gets_stops_the_lab_too(root):
    def send():
        wait_for("begun")
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    script = "trap 'exit 75' TERM; touch begun; for i in {1..200}; do sleep 0.05; done"
    outcome, _ = run(root, shell("a", script), shell("b", ":", "a"))
    sender.join()
    assert (outcome.stopped, outcome.made, ran()) == (75, [], ["a"])


@pytest.mark.slow
def test_the_command_of_a_killed_lab_is_waited_for(root):
    nodes = shell("a", SAVES), shell("b", ":", "a")
    with driver(root, *nodes) as first:
        wait_for("begun")
        first.kill()
    with driver(root, *nodes) as second:
        line, before = second.stdout.readline(), ran()
        pathlib.Path("go_on").touch()
        *_, last = second.communicate()[0].splitlines()
    assert line.startswith("a is at work elsewhere")
    assert before == ["a"]
    # No marker was written of what it did: it ran again.
    assert json.loads(last)[1] == ["a", "b"]
    assert ran() == ["a", "a", "b"]


@pytest.mark.slow
def test_two_labs_on_one_root_share_the_work(root):
    numbers = [str(i) for i in range(6)]
    nodes = [shell(x, "sleep 0.3") for x in numbers]
    nodes.append(shell("last", ":", *numbers))
    labs = [driver(root, *nodes) for _ in range(2)]
    outcomes = [json.loads(x.communicate()[0].splitlines()[-1]) for x in labs]
    assert sorted(ran()) == sorted([*numbers, "last"])
    made = [name for outcome in outcomes for name in outcome[1]]
    assert sorted(made) == sorted(ran())
    for before, made, failed, blocked in outcomes:
        assert sorted([*before, *made]) == sorted(ran())
        assert not failed and not blocked

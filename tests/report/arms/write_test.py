"""The page of a made-up laboratory, end to end."""

import json
import re
import shutil

import pytest

from salt_jax.files.bill import Bill
from salt_jax.files.records import write_record
from salt_jax.lab.measures import OtherText, Trained
from salt_jax.report.arms.write import write_lab_report
from salt_jax.telemetry.recorded_commands import record_command
from tests.compared_runs import rows, write_bill
from tests.report.arms import made_lab
from tests.report.arms.made_lab import summary
from tests.sealed import replace, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the report of a complete laboratory."""
    root = tmp_path_factory.mktemp("lab")
    times = made_lab.write_step_times(root, root / "times.json")
    folder = made_lab.write_all(root, step_times=times)
    write_lab_report(folder)
    return folder


def tables(folder):
    """Returns the cells of the rows in `tables.md`, by the name of the first."""
    lines = (folder / "tables.md").read_text().splitlines()
    found = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return {cells[0]: cells[1:] for cells in found if len(cells) > 3}


GOLDEN = """\
### A teacher that ends worse than the student (the paper's regime)

The teacher's held-out loss minus baseline's final one, on the same rows: \
+0.500 nats per token.

| Arm | Seeds | Final loss | From baseline | Passes at: steps | \
FLOPs | chip-seconds | Pays from |
| --- | --: | --: | --: | --: | --: | --: | --: |
| salt | 3 of 3 | 3.625 | -0.500 ± 0.000 | 62 ± 0 % | 75 ± 0 % | \
88 ± 0 % | 2 |
| late | 3 of 3 | 4.250 | +0.125 ± 0.000 | 0 of 3 | 0 of 3 | \
0 of 3 | - |

### A teacher that ends better than the student

The teacher's held-out loss minus baseline's final one, on the same rows: \
-1.000 nats per token.

| Arm | Seeds | Final loss | From baseline | Passes at: steps | \
FLOPs | chip-seconds | Pays from |
| --- | --: | --: | --: | --: | --: | --: | --: |
| taught | 3 of 3 | 3.375 | -0.750 ± 0.000 | 45 ± 0 % | \
54 ± 0 % | - | 2 |

### No teacher

| Arm | Seeds | Final loss | From baseline | Passes at: steps | \
FLOPs | chip-seconds | Pays from |
| --- | --: | --: | --: | --: | --: | --: | --: |
| averaged | 3 of 3 | 4.000 | -0.125 ± 0.000 | 92 ± 0 % | \
92 ± 0 % | 92 ± 0 % | 1 |

### Costs
"""


def test_the_main_tables_of_a_known_laboratory_are_these(made):
    assert (made / "tables.md").read_text().startswith(GOLDEN)


def test_a_document_can_have_one_table_of_all_kinds_of_teachers(made, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- lab made -->\n<!-- end of lab made -->\n")
    write_lab_report(made, page, brief=True)
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| salt | worse, +0.500 | 3 of 3 | 3.625 | -0.500 \u00b1 0.000 | "
        "62 \u00b1 0 % | 75 \u00b1 0 % | 2 |",
        "| late | worse, +0.500 | 3 of 3 | 4.250 | +0.125 \u00b1 0.000 | "
        "0 of 3 | 0 of 3 | - |",
        "| taught | better, -1.000 | 3 of 3 | 3.375 | -0.750 \u00b1 0.000 | "
        "45 \u00b1 0 % | 54 \u00b1 0 % | 2 |",
        "| averaged | no teacher | 3 of 3 | 4.000 | -0.125 \u00b1 0.000 | "
        "92 \u00b1 0 % | 92 \u00b1 0 % | 1 |",
    ]


def test_the_answer_comes_first_and_names_arm_cost_students_and_regime(made):
    html = (made / "lab.html").read_text()
    said = re.findall(r"<h1>(.*?)</h1>|<p>(.*?)</p>", html, flags=re.DOTALL)
    text = " ".join(a or b for a, b in said)
    assert html.index("<p>") < html.index("<table>") < html.index("<figure>")
    assert "with a teacher that ends worse, salt reaches baseline" in text
    assert "final loss at 62 \u00b1 0 % of its steps" in text
    assert "15 of 15 runs are finished" in text
    paper = text[text.index("ends worse") : text.index("ends better")]
    for number in (
        "salt and late",
        "62 \u00b1 0 %",
        "75 \u00b1 0 %",
        "88",
        "-0.500",
        "30",
    ):
        assert number in paper
    assert "from 2 students on that share this (5 by chip-seconds)" in paper
    early = "salt (a teacher that ends worse) and taught (a teacher that ends better)"
    assert "At 70 % of its steps or fewer, as in the paper, baseline" in text
    assert f"is reached by {early}." in text


def test_the_summary_has_the_numbers_of_every_arm(made):
    salt = summary(made)["salt"]
    # 12 FLOPs a step to 62.5 of 1000; 50 steps of 3 s, the others of 2 s, of 200 s.
    shares = {what: x["mean"] for what, x in salt["all_seeds"]["shares"].items()}
    assert shares == pytest.approx({"steps": 0.625, "flops": 0.75, "seconds": 0.875})
    bills = {what: x["mean"] for what, x in salt["all_seeds"]["bills"].items()}
    assert bills == pytest.approx({"flops": 0.3, "seconds": 0.5})
    assert salt["teacher_gap"]["mean"] == 0.5
    # It has spent 1000 FLOPs at step 83.33: a third of the way from 3.75 to 3.5.
    assert salt["all_seeds"]["at_equal_flops"]["mean"] == pytest.approx(-1 / 3)
    assert summary(made)["late"]["all_seeds"]["passed"] == 0


def test_figures_and_their_numbers_stand_beside_the_page(made):
    names = {path.stem for path in made.glob("*.svg")}
    assert {
        "passing",
        "difference",
        "loss_difference",
        "loss_difference-taught",
    } <= names
    assert {"kl-taught", "loss", "grad_norm-taught"} <= names
    assert "kl" not in names  # No arm of that group has a teacher.
    numbers = json.loads((made / "loss_difference-taught.json").read_text())
    assert numbers["salt"]["mean"] == pytest.approx([-1.0, -0.75, -0.75, -0.5])
    assert numbers["salt"]["count"] == 3


def test_a_laboratory_that_is_not_complete_says_what_is_missing(tmp_path):
    for name in ("baseline", "salt", "slm"):
        made_lab.write_run(tmp_path, name, 0)
    made_lab.write_run(tmp_path, "salt", 1, steps=made_lab.STEPS[:2])
    folder = made_lab.write_lab(tmp_path, arms=("baseline", "salt", "late"))
    page = write_lab_report(folder).read_text()
    assert "2 of 9 runs are finished" in page
    cells = {row[0]: row[1:] for row in rows(page)}
    assert cells["late"] == ["not begun"] * 3
    status = [row for row in rows(page) if row[0] == "salt"][-1]
    assert status == ["salt", "finished", "at step 50 of 100", "not begun"]
    assert summary(folder)["late"]["all_seeds"] is None
    assert summary(folder)["salt"]["all_seeds"]["seeds"] == [0]
    assert "One seed: there is no interval" in page
    assert tables(folder)["salt"][:3] == ["finished", "at step 50 of 100", "not begun"]


def test_before_any_pair_is_finished_the_page_says_so(tmp_path):
    made_lab.write_run(tmp_path, "salt", 0)
    page = write_lab_report(made_lab.write_lab(tmp_path)).read_text()
    assert "nothing to compare with baseline yet" in page


def test_seeds_that_dials_were_chosen_on_are_told_apart_from_fresh_ones(tmp_path):
    folder = made_lab.write_all(tmp_path, chosen_on=(0, 1))
    page = write_lab_report(folder).read_text()
    arm = summary(folder)["salt"]
    assert [arm[x]["seeds"] for x in ("all_seeds", "chosen", "fresh")] == [
        *([0, 1, 2], [0, 1], [2]),
    ]
    header, row = rows(page)[:2]
    assert header.count("fresh seeds") == 2
    assert row[header.index("fresh seeds")] == "-0.500"
    assert "chosen on seeds 0 and 1" in page


def test_the_order_of_seeds_and_arms_changes_no_number(tmp_path):
    numbers = []
    for arms, seeds in (
        (("baseline", "salt", "late"), (0, 1, 2)),
        (("late", "salt", "baseline"), (2, 0, 1)),
    ):
        root = tmp_path / str(len(numbers))
        for name in (*arms, "slm"):
            for seed in seeds:
                made_lab.write_run(root, name, seed, spread=0.137)
        folder = made_lab.write_lab(root, arms=arms, seeds=seeds)
        write_lab_report(folder)
        numbers.append(
            {
                name: {k: v for k, v in arm["all_seeds"].items() if k != "seeds"}
                for name, arm in summary(folder).items()
            }
        )
    assert numbers[0] == numbers[1]


def test_runs_that_were_validated_on_different_rows_are_refused(tmp_path):
    folder = made_lab.write_all(tmp_path)
    path = tmp_path / "late" / "seed-1" / "run" / "experiment.json"
    replace(path, '"num_sequences": 8', '"num_sequences": 9')
    with pytest.raises(ValueError, match=r"late/seed-1/run .*9.*baseline/seed-0/run"):
        write_lab_report(folder)


def test_a_folder_without_a_laboratory_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lab\.json"):
        write_lab_report(tmp_path)


def test_losses_by_domain_are_of_the_runs_that_were_evaluated(tmp_path):
    folder = made_lab.write_all(tmp_path)
    for seed in (0, 1):
        for name, loss in (("baseline", 4.0), ("salt", 3.5 + 0.2 * seed)):
            run = tmp_path / name / f"seed-{seed}" / "run"
            made_lab.write_evaluation(run, loss)
    page = write_lab_report(folder).read_text()
    found = [row for row in rows(page) if row[:3] == ["salt", "worse", "2"]]
    assert found == [["salt", "worse", "2", "3.6000", *["-0.400 \u00b1 1.271"] * 3]]


def test_the_bill_of_an_arm_whose_teacher_is_not_of_the_laboratory_is_unknown(tmp_path):
    folder = made_lab.write_all(tmp_path)
    for seed in made_lab.SEEDS:
        path = tmp_path / "salt" / f"seed-{seed}" / "run" / "experiment.json"
        replace(path, f"{tmp_path}/slm/seed-{seed}/export", "/elsewhere/export")
    write_lab_report(folder)
    salt = summary(folder)["salt"]
    assert salt["regime"] == "unknown"
    assert salt["all_seeds"]["bills"]["flops"] is None
    assert salt["all_seeds"]["shares"]["steps"]["mean"] == pytest.approx(0.625)


def test_a_moving_average_is_an_arm_beside_the_run_that_keeps_it(tmp_path):
    folder = made_lab.write_all(tmp_path)
    for seed in made_lab.SEEDS:
        path = tmp_path / "baseline" / f"seed-{seed}" / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if "val_loss" in line:
                line["val_loss_average"] = line["val_loss"] - 0.5
        write_lines(path, lines)
    write_lab_report(folder)
    found = summary(folder)
    average = found["baseline, averaged"]["all_seeds"]
    assert average["difference"]["mean"] == -0.5
    # From 5 - 0.5 at 50 to 4.5 - 0.5 at 75.
    assert average["shares"]["steps"]["mean"] == 0.75
    assert found["salt"]["all_seeds"]["difference"]["mean"] == -0.5
    assert "salt, averaged" not in found


def test_a_teacher_is_judged_by_the_loss_that_its_student_measured(tmp_path):
    folder = made_lab.write_all(tmp_path)
    for seed in made_lab.SEEDS:
        path = tmp_path / "salt" / f"seed-{seed}" / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[1]["val_teacher_loss"] = 3.5 + 0.125 * seed
        write_lines(path, lines)
    write_lab_report(folder)
    salt = summary(folder)["salt"]
    assert (salt["regime"], salt["teacher_gap"]["mean"]) == ("better", -0.5)


def test_a_teacher_is_judged_on_seeds_that_the_arm_has_not_begun_too(tmp_path):
    folder = made_lab.write_all(tmp_path)
    whole = summary(write_lab_report(folder).parent)["salt"]["teacher_gap"]
    shutil.rmtree(tmp_path / "salt" / f"seed-{made_lab.SEEDS[-1]}" / "run")
    part = summary(write_lab_report(folder).parent)["salt"]
    assert len(part["pairs"]) == len(made_lab.SEEDS) - 1
    assert part["teacher_gap"] == whole


def test_few_shot_averages_are_drawn_at_the_steps_that_were_evaluated(tmp_path):
    folder = made_lab.write_all(tmp_path)
    lab = json.loads((folder / "lab.json").read_text())
    for arm in lab["arms"]:
        at = {str(step): f"{tmp_path}/{arm['name']}-{step}" for step in (50, 100)}
        arm["few_shot"] = {"0": at}
    write_record(folder / "lab.json", lab)
    for name, value in (("baseline", 0.25), ("salt", 0.5)):
        mark = {"value": value, "stderr": 0.01}
        row = {"name": "all", "metric": "mean", "part": "", "is_share": True}
        row |= {"examples": 1, "shots": 0, "chance": None, "marks": {name: mark}}
        write_record(tmp_path / f"{name}-50" / "few_shot.json", {"tasks": [row]})
    write_lab_report(folder)
    drawn = json.loads((folder / "few_shot-taught.json").read_text())
    assert (drawn["salt"]["steps"], drawn["salt"]["mean"]) == ([50.0], [0.5])
    assert drawn["baseline"]["mean"] == [0.25] and "late" not in drawn
    said = json.loads((folder / "summary.json").read_text())["few_shot"]
    assert {name: x["mean"] for name, x in said.items()} == {
        "baseline": [0.25], "salt": [0.5]
    }  # fmt: skip
    for path in ("tables.md", "lab.html"):
        text = (folder / path).read_text()
        assert "Few-shot average, by step" in text and "0.2500" in text


def test_scoring_is_in_the_bill(tmp_path):
    folder = made_lab.write_all(tmp_path)
    lab = json.loads((folder / "lab.json").read_text())
    for seed in made_lab.SEEDS:
        node = f"scores/seed-{seed}/scores"
        (tmp_path / node).mkdir(parents=True)
        write_bill(tmp_path / node)  # 100 FLOPs.
        salt = next(arm for arm in lab["arms"] if arm["name"] == "salt")
        salt["needs"][str(seed)].append(node)
        entry = {"name": node, "argv": ["score"], "needs": [], "output": None}
        lab["nodes"].append(entry)
    write_record(folder / "lab.json", lab)
    write_lab_report(folder)
    salt = summary(folder)["salt"]["all_seeds"]
    assert salt["bills"]["flops"]["mean"] == pytest.approx(0.4)


def test_runs_that_kept_a_bill_have_it_in_a_table(tmp_path):
    folder = made_lab.write_all(tmp_path)
    for seed, rows_read in ((0, 100), (1, 300)):
        Bill(
            devices=1,
            device_kind="cpu",
            chip_seconds=50.0,
            seconds={"steps": 40.0},
            flops={"student": 1000, "teacher": 200 * seed},
            rows=rows_read,
            tokens=10 * rows_read,
            bytes_read=7,
        ).write(tmp_path / "salt" / f"seed-{seed}" / "run")
    write_lab_report(folder)
    row = ["2", "50", "2,000", "7", "1.00e+03", "1.00e+02"]
    assert f"| salt | {' | '.join(row)} |" in (folder / "tables.md").read_text()


def test_each_table_names_the_command_that_makes_it(tmp_path):
    folder = made_lab.write_all(tmp_path)
    record_command(folder, "salt_jax lab --gin_file=a.gin")
    write_lab_report(folder)
    text = (folder / "tables.md").read_text()
    by = text.count("Made by `salt_jax lab --gin_file=a.gin`.")
    assert by == text.count("\n### ") + 1 > 5


def test_other_text_has_a_table_of_its_own(tmp_path):
    folder = made_lab.write_all(tmp_path)
    lab = json.loads((folder / "lab.json").read_text())
    commands = OtherText(name="law", bindings=["DATA='x'"]).commands(
        Trained(total_steps=100, is_arm=True)
    )
    (command,) = commands
    for name, loss in (("baseline", 5.0), ("salt", 4.75)):
        home = tmp_path / name / "seed-0"
        (home / "law").mkdir()
        made_lab.write_evaluation(home / "law", loss)
        node = {"name": f"{name}/seed-0/law", "argv": [command.command], "needs": []}
        lab["nodes"].append(node | {"output": f"{home}/{command.makes}"})
    write_record(folder / "lab.json", lab)
    write_lab_report(folder)
    text = (folder / "tables.md").read_text()
    table = text[text.index("on whole split 'law, test'") :]
    assert "| salt | worse | 1 | 4.7500 | -0.250 | -0.250 | -0.250 |" in table

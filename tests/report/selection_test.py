import html
import json
import re

import numpy as np
import pytest

from salt_jax.config import Experiment, Stage
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.scoring.score_bill import BillWriter
from salt_jax.data.selecting.near_duplicates import NearDuplicates
from salt_jax.data.selecting.ranking import HighestScores, Learnability
from salt_jax.data.selecting.selection import Selection
from salt_jax.model.flops import forward_flops
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.report.selection import report_selections
from salt_jax.report.selection_numbers import TEXT_LENGTH, ids_at
from tests import runs
from tests.made_scores import write_scores
from tests.report.page_test import Checker

SEQ_LEN = 256
POOL = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    runs.make_corpus(folder / "corpus")
    # What a page must not take for its own, and what no page may hold.
    train = folder / "corpus" / "train"
    lines = [{"text": f"<b>&{i}\0 " * 60, "meta": {"pile_set_name": "<Odd>"}}
             for i in range(8)]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (train / "01.jsonl").write_text(text)
    return prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=runs.VOCABULARY,
            output=str(folder / "data"),
            seq_len=SEQ_LEN,
        )
    )["train"]


@pytest.fixture(scope="module")
def domains(dataset):
    """Of each sequence, where most of its tokens are from."""
    rows = dataset.read(np.arange(len(dataset))).domains
    return np.array([np.bincount(row[row >= 0]).argmax() for row in rows])


@pytest.fixture(scope="module")
def columns(dataset, domains):
    rng = np.random.default_rng(0)
    size = len(dataset)
    return {
        "mean_loss": rng.random(size),
        "median_k10_zeros": rng.integers(0, 3, size) * 0.25,
        "loss_quantiles": np.sort(rng.random((size, 7)), axis=1),
        "sketch": np.zeros(size, np.uint64),
        "domain": domains,
    }


@pytest.fixture
def scores(dataset, columns, tmp_path):
    write_scores(tmp_path / "scores", dataset, columns)
    return tmp_path / "scores"


def experiment(dataset, *selections):
    """A stage of 2 steps of 4 sequences for each selection, and one without."""
    stages = []
    for i, selection in enumerate([*selections, None]):
        data = PreparedText(
            path=str(dataset.path.parent),
            vocabulary=runs.VOCABULARY,
            selection=selection,
        )
        stages.append(Stage(name=f"stage{i}", end_step=2 * (i + 1), data=data))
    return Experiment(
        model=runs.STUDENT,
        stages=stages,
        optimizer=AdamW(learning_rate=Constant(value=0.1)),
        batch_size=4,
        seq_len=SEQ_LEN,
    )


def selection(scores, keep_fraction=0.5, **others):
    others = {"ranking": HighestScores(score="median_k10_zeros")} | others
    return Selection(scores=str(scores), keep_fraction=keep_fraction, **others)


@pytest.fixture
def report(dataset, tmp_path):
    """Reports what some selections keep: JSON by stage, HTML, and what is returned."""

    def made(*selections):
        lines = report_selections(experiment(dataset, *selections), tmp_path / "out")
        stages = json.loads((tmp_path / "out" / "selection.json").read_text())["stages"]
        return stages, (tmp_path / "out" / "selection.html").read_text(), lines

    return made


def test_the_counts_are_those_of_the_ids_that_the_selection_gives(
    report, scores, dataset, domains
):
    chosen = selection(scores)
    (stage,), page, _ = report(chosen)
    ids = chosen.select(dataset)
    assert stage["scored"] == len(dataset)
    assert stage["kept"] == len(ids)
    is_token = dataset.read(ids).segments > 0
    assert stage["kept_tokens"] == is_token.sum()
    for row in stage["domains"]:
        number = dataset.manifest.domains.index(row["domain"])
        assert row["scored"] == np.count_nonzero(domains == number)
        assert row["kept"] == np.count_nonzero(domains[ids] == number)
        name = html.escape(row["domain"])
        cells = f"<td>{row['scored']}</td><td>{row['kept']}</td>"
        assert f'<th scope="row">{name}</th>{cells}' in page
    assert sum(row["scored"] for row in stage["domains"]) == len(dataset)
    for counts in stage["histograms"].values():
        assert sum(counts["kept"]) == len(ids)
        assert sum(counts["left_out"]) == len(dataset) - len(ids)


def test_a_split_that_is_kept_whole_has_the_tokens_of_its_manifest(
    report, scores, dataset
):
    (stage,), _, _ = report(selection(scores, 1.0))
    assert stage["kept_tokens"] == dataset.manifest.num_tokens


def test_means_and_quantiles_are_of_what_they_say(report, scores, dataset, columns):
    chosen = selection(scores)
    (stage,), _, _ = report(chosen)
    ids = chosen.select(dataset)
    quantiles = columns["loss_quantiles"]
    for i, row in enumerate(stage["loss_quantiles"]):
        assert row["scored"] == pytest.approx(quantiles[:, i].mean(), abs=1e-3)
        assert row["kept"] == pytest.approx(quantiles[ids, i].mean(), abs=1e-3)
    worth, counts = columns["median_k10_zeros"], stage["domains"]
    assert sum(x["mean_worth"] * x["scored"] for x in counts) == pytest.approx(
        worth.sum()
    )
    assert sum(x["mean_worth_kept"] * x["kept"] for x in counts if x["kept"]) == (
        pytest.approx(worth[ids].sum())
    )
    assert stage["zero_shares"]["median_k10_zeros"] == np.mean(worth == 0)


def test_the_texts_are_the_first_the_middle_and_the_last_by_worth(
    report, scores, dataset, columns
):
    (stage,), _, _ = report(selection(scores))
    worth = columns["median_k10_zeros"]
    order = sorted(range(len(dataset)), key=lambda i: (-worth[i], i))
    middle = (len(order) - 5) // 2
    expected = {
        "highest": order[:5],
        "median": order[middle : middle + 5],
        "lowest": order[:-6:-1],
    }
    for name, ids in expected.items():
        examples = stage["texts"][name]
        assert [example["id"] for example in examples] == ids
        assert [example["worth"] for example in examples] == worth[ids].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_places_in_the_order_are_found_without_sorting(seed):
    worth = np.random.default_rng(seed).integers(0, 4, 30).astype(np.float32)
    order = sorted(range(30), key=lambda i: (-worth[i], i))
    assert ids_at(worth, range(30)).tolist() == order
    assert ids_at(worth, range(29, 20, -1)).tolist() == order[:20:-1]


def test_texts_are_decoded_escaped_and_cut(report, scores, dataset):
    chosen = selection(scores, ranking=HighestScores(score="mean_loss"))
    (stage,), page, _ = report(chosen)
    examples = [x for texts in stage["texts"].values() for x in texts]
    assert all(len(x["text"]) <= TEXT_LENGTH + 4 for x in examples)
    assert any("small model" in x["text"] for x in examples)
    assert any("<b>&" in x["text"] and "\0" in x["text"] for x in examples)
    assert "&lt;b&gt;&amp;" in page and "&lt;Odd&gt;" in page
    assert "<b>" not in page and "\0" not in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r'(src|href)="(?!data:|selection\.json")', page)


def test_a_text_that_is_empty_says_so(report, scores, dataset, monkeypatch):
    monkeypatch.setattr(
        "salt_jax.report.selection_numbers.Vocabulary.decode", lambda self, ids: ""
    )
    _, page, _ = report(selection(scores))
    assert "(no text)" in page and "<pre></pre>" not in page


def test_the_warnings_are_first_on_the_page_in_the_json_and_returned(
    report, dataset, columns, tmp_path
):
    few = {name: values[:POOL] for name, values in columns.items()}
    few["median_k10_zeros"] = np.zeros(POOL)
    write_scores(tmp_path / "few", dataset, few)
    (stage,), page, lines = report(selection(tmp_path / "few", 0.1))
    assert lines == [f"Stage 'stage0': {line}" for line in stage["warnings"]]
    pool, zeros, *_, batch = stage["warnings"]
    assert pool.startswith(f"Only the first {POOL} of {len(dataset)}")
    assert zeros.startswith("100.0% of the scores are 0")
    assert batch.startswith("A batch of 4 rows exceeds the 2 rows")
    places = [page.index(html.escape(line)) for line in lines]
    assert places == sorted(places) and places[-1] < page.index("<section>")


# ---- The bill ---------------------------------------------------------------


def billed(folder, num_sequences):
    flops = {"seq_len": SEQ_LEN, "flops_per_token": 1000, "num_accelerators": 1}
    with BillWriter(folder, **flops) as bill:
        bill.read(num_sequences)
        bill.write(0)


def test_scoring_is_billed_against_the_student_alone(report, scores, dataset):
    billed(scores, 40)
    (stage,), page, _ = report(selection(scores))
    run = experiment(dataset, None)
    baseline = 4 * 4 * SEQ_LEN * 3 * forward_flops(run.model, SEQ_LEN)
    share = 40 * SEQ_LEN * 1000 / baseline
    assert stage["bill"] == {
        "scoring_flops": 40 * SEQ_LEN * 1000,
        "baseline_flops": baseline,
        "share": pytest.approx(share),
    }
    assert f"{share:.2%} of the {baseline:.3e}" in page


def test_two_scorers_are_both_billed_or_the_bill_is_not_known(
    report, scores, dataset, columns, tmp_path
):
    late = tmp_path / "late"
    write_scores(late, dataset, columns)
    chosen = selection(scores, ranking=Learnability(reference=str(late)))
    billed(scores, 40)
    (stage,), page, _ = report(chosen)
    assert stage["bill"]["scoring_flops"] is None and stage["bill"]["share"] is None
    assert "is not known" in page
    billed(late, 2)
    (stage,), _, _ = report(chosen)
    assert stage["bill"]["scoring_flops"] == 42 * SEQ_LEN * 1000


# ---- Near-duplicates, and several stages ------------------------------------


def test_near_duplicates_are_counted_and_shown_in_pairs(report, scores, dataset):
    # Prose of twelve words: any two sequences have a few shingles in common.
    alike = NearDuplicates(min_similarity=1e-3)
    chosen = selection(scores, 0.05, near_duplicates=alike)
    (stage,), page, _ = report(chosen)
    found = chosen.choose(dataset).duplicates
    shown = stage["near_duplicates"]
    assert shown["dropped"] == len(found.dropped) > 3
    assert f"{len(found.dropped)} sequences are left out because" in page
    least = np.sort(found.similarity)[:3].tolist()
    assert [pair["similarity"] for pair in shown["pairs"]] == least
    pairs = dict(zip(found.dropped.tolist(), found.kept.tolist(), strict=True))
    for pair in shown["pairs"]:
        assert pairs[pair["dropped"]["id"]] == pair["stays"]["id"]
        assert not pair["dropped"]["kept"]


def test_nobody_looked_for_near_duplicates_is_not_that_there_are_none(report, scores):
    (stage,), page, _ = report(selection(scores))
    assert stage["near_duplicates"] is None and "Near-duplicates" not in page


def test_each_stage_that_selects_is_shown(report, scores):
    stages, page, _ = report(selection(scores), selection(scores, 0.25))
    assert [stage["stage"] for stage in stages] == ["stage0", "stage1"]
    assert stages[1]["kept"] < stages[0]["kept"]
    assert [stage["read"] for stage in stages] == [8, 8]  # 2 steps of 4.
    assert html.escape("stages 'stage0' and 'stage1'") in page


def test_an_experiment_that_selects_nothing_is_refused(report):
    with pytest.raises(ValueError, match=r"none of \['stage0'\] has a Selection"):
        report()

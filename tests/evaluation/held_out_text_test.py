import dataclasses
import math

import jax
import numpy as np
import pytest

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation import held_out_text
from salt_jax.evaluation.held_out import Evaluation
from salt_jax.evaluation.held_out_text import DomainSums, evaluate_splits, table
from salt_jax.files.records import read_record
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.training.program import Program
from tests import runs
from tests.examples import dense_reading, saying

UNTIED = dataclasses.replace(runs.STUDENT, tied_embedding=False)


def evaluate(program, params, *splits):
    data = program.experiment.validation.data
    return evaluate_splits(program, params, data, *splits)[0]


@pytest.fixture(scope="module")
def program(files):
    return Program.on(runs.experiment(files))


@pytest.fixture(scope="module")
def params(program):
    return program.fresh_state().params


@pytest.fixture(scope="module")
def results(program, params):
    return evaluate(program, params)


def opened(program, split="val"):
    data = dataclasses.replace(program.experiment.stages[-1].data, split=split)
    return data.open(seq_len=runs.SEQ_LEN)


def read_all(program, split="val"):
    dataset = opened(program, split)
    return dataset, dataset.read(np.arange(len(dataset)))


def test_the_measures_of_a_domain_are_those_of_the_dense_logits(
    program, params, results
):
    dataset, sequences = read_all(program)
    ce_NL, rank_NL = dense_reading(runs.STUDENT, params, sequences)
    lengths = Vocabulary.open(runs.VOCABULARY).byte_lengths()
    assert set(results["val"]["domains"]) == {"Prose", "Verse"}
    for name, found in results["val"]["domains"].items():
        of = sequences.domains == dataset.manifest.domains.index(name)
        text_bytes = sum(int(lengths[token]) for token in sequences.tokens[of])
        expected = {
            "loss": ce_NL[of].mean(),
            "perplexity": math.exp(ce_NL[of].mean()),
            "bits_per_byte": ce_NL[of].sum() / math.log(2) / text_bytes,
            "accuracy": (rank_NL[of] == 0).mean(),
            "tokens": of.sum(),
            "bytes": text_bytes,
        }
        assert found == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_token_counts_once_and_padding_never(split, program, results):
    dataset, sequences = read_all(program, split)
    # The splits end in a padded sequence and in a batch that is not full.
    assert (sequences.segments == 0).any() and len(dataset) % 8
    manifest = dataset.manifest
    assert results[split]["total"]["tokens"] == manifest.num_tokens
    for name, counts in zip(manifest.domains, manifest.domain_counts, strict=True):
        assert results[split]["domains"][name]["tokens"] == counts.tokens


def test_domains_add_up_to_the_total(results):
    domains, total = results["val"]["domains"].values(), results["val"]["total"]
    for count in ("tokens", "bytes"):
        assert sum(domain[count] for domain in domains) == total[count]
    nats = sum(domain["loss"] * domain["tokens"] for domain in domains)
    assert nats == pytest.approx(total["loss"] * total["tokens"], rel=1e-12)
    bits = sum(domain["bits_per_byte"] * domain["bytes"] for domain in domains)
    assert bits * math.log(2) == pytest.approx(nats, rel=1e-12)


def test_the_bytes_are_about_those_of_the_text(program, results):
    # A piece at the start of a document has a space that the text has not.
    counts = opened(program).manifest.domain_counts
    text_bytes = sum(domain.text_bytes for domain in counts)
    documents = sum(domain.documents for domain in counts)
    assert 0 <= results["val"]["total"]["bytes"] - text_bytes <= documents


def test_a_model_that_always_says_one_word_is_right_where_it_stands(files):
    program = Program.on(runs.experiment(files, model=UNTIED))
    dataset, sequences = read_all(program)
    is_target = sequences.segments > 0
    word = np.bincount(sequences.tokens[is_target]).argmax()
    params = saying(program.fresh_state().params, [word])
    result = evaluate(program, params, ["val"])["val"]
    for name, domain in result["domains"].items():
        of = sequences.domains == dataset.manifest.domains.index(name)
        assert domain["accuracy"] == (sequences.tokens[of] == word).mean() > 0.02


@pytest.mark.parametrize(
    "change",
    [{"mesh": MeshShape()}, {"batch_size": 16}, {"num_microbatches": 2}],
    ids=str,
)
def test_an_evaluation_does_not_depend_on_how_it_is_made(change, files, results):
    program = Program.on(runs.experiment(files, **change))
    other = evaluate(program, program.fresh_state().params)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), other, results
    )


def test_selection_does_not_narrow_what_is_evaluated(program, results, params):
    data = program.experiment.stages[-1].data
    selected = dataclasses.replace(data, selection="none")
    found, _ = evaluate_splits(program, params, selected, ["val"])
    assert found["val"]["total"] == results["val"]["total"]


def test_losses_of_sequences_weighted_by_their_tokens_are_that_of_the_split(
    program, results, params
):
    data = program.experiment.validation.data
    _, losses = evaluate_splits(program, params, data, ["val"])
    dataset = data.open(seq_len=program.experiment.seq_len)
    tokens = dataset.read(np.arange(len(dataset))).segments > 0
    mean = np.average(losses["val"], weights=tokens.sum(axis=1))
    assert mean == pytest.approx(results["val"]["total"]["loss"], rel=1e-5)


def test_losses_are_kept_of_the_first_sequences_alone(program, params, monkeypatch):
    data = program.experiment.validation.data
    _, whole = evaluate_splits(program, params, data, ["val"])
    monkeypatch.setattr(held_out_text, "KEPT_SEQUENCES", 3)
    _, first = evaluate_splits(program, params, data, ["val"])
    assert len(whole["val"]) > 3 and first["val"] == whole["val"][:3]


def test_perplexity_is_exp_of_the_cross_entropy():
    assert DomainSums(nats=6.0, tokens=3, text_bytes=8).means() == {
        "loss": 2.0,
        "perplexity": math.exp(2.0),
        "bits_per_byte": 6.0 / math.log(2) / 8,
        "accuracy": 0.0,
        "tokens": 3,
        "bytes": 8,
    }


def test_an_evaluation_is_written_with_its_step_and_size(results, tmp_path):
    evaluation = Evaluation(splits=results, samples=[{"prompt": "a"}], table="")
    evaluation.write(tmp_path / "run", step=7, params=9)
    written, samples = (
        read_record(tmp_path / "run" / name, dict, remedy="")
        for name in ("evaluation.json", "samples.json")
    )
    assert written == {"step": 7, "params": 9, "splits": results}
    assert samples == {"samples": [{"prompt": "a"}]}


def test_losses_of_sequences_are_written_in_a_file_of_their_own(results, tmp_path):
    evaluation = Evaluation(
        splits=results, samples=[], table="", sequence_losses={"val": [1.5, 2.5]}
    )
    evaluation.write(tmp_path, step=7, params=9)
    written = read_record(tmp_path / "sequence_losses.json", dict, remedy="")
    assert written == {"step": 7, "splits": {"val": [1.5, 2.5]}}


def test_the_table_has_a_row_for_each_domain_and_the_total_of_each_split(results):
    header, *rows = table(results).splitlines()
    assert header.split() == ["split", "domain", "tokens", "loss", "ppl", "bits/byte",
                              "accuracy"]  # fmt: skip
    named = [(row.split()[0], row.split()[1]) for row in rows]
    domains = ["Prose", "Verse", "total"]
    assert named == [(split, name) for split in ("val", "test") for name in domains]
    total = results["val"]["total"]
    assert f"{total['loss']:.4f}" in rows[2] and f"{total['accuracy']:.2%}" in rows[2]


def test_a_split_that_is_not_prepared_is_refused(program, params):
    with pytest.raises(FileNotFoundError, match="No prepared data at .*/trial"):
        evaluate(program, params, ["trial"])

import dataclasses

import numpy as np
import pytest
from etils import epath

from salt_jax.data.corpora import corpus as corpora
from salt_jax.data.preparing.shuffle import shuffle_keys
from salt_jax.data.preparing.sorted_runs import Spill
from salt_jax.data.preparing.tokenization import Tokenizer
from salt_jax.data.vocabulary import Vocabulary
from tests.data.conftest import VOCABULARY


@pytest.fixture
def part(corpus):
    return corpora.split_parts(str(corpus), "train")[0]


@pytest.fixture
def spill(tmp_path):
    return Spill(
        folder=epath.Path(tmp_path / "runs"),
        tokenizer=Tokenizer(vocabulary=Vocabulary.open(VOCABULARY), seed=5),
        run_tokens=2_000,
        keys=dict.fromkeys(range(10), "the same"),
    )


def documents_of(part):
    return {
        number: document
        for block in part.blocks()
        for number, document in block.documents()
    }


def test_every_document_is_in_one_run_with_its_key_tokens_and_domain(spill, part):
    done = spill(7, part)
    assert len(done.runs) > 2
    documents, seen = documents_of(part), []
    for run in done.runs:
        keys, found, tokens = (
            run.open(name) for name in ("keys", "documents", "tokens")
        )
        np.testing.assert_array_equal(keys, shuffle_keys(5, 7, found["number"]))
        assert (keys[1:] >= keys[:-1]).all()
        for number, begin, num_tokens, domain in found.tolist():
            text = spill.tokenizer.vocabulary.decode(tokens[begin : begin + num_tokens])
            assert text == documents[number].text
            assert tokens[begin + num_tokens - 1] == 1
            assert done.domains[domain] == documents[number].domain
            seen.append(number)
    assert sorted(seen) == list(documents)


def test_a_part_that_is_done_is_known_with_all_that_was_counted(spill, part):
    assert spill.done(7) is None
    done = spill(7, part)
    assert spill.done(7) == done
    assert spill.done(6) is None
    documents = documents_of(part).values()
    assert done.counts.documents.total() == done.counts.num_records == len(documents)
    assert done.counts.text_bytes.total() == sum(x.num_bytes for x in documents)


def test_a_part_that_is_read_again_leaves_nothing_of_before(spill, part):
    other = dataclasses.replace(spill, run_tokens=1)
    other(7, part)
    (spill.folder / "part-00007.json").unlink()
    done = spill(7, part)
    left = {file.name for file in spill.folder.glob("part-00007*")}
    names = ("keys", "documents", "tokens")
    expected = {f"{run.name}.{name}.npy" for run in done.runs for name in names}
    assert left == expected | {"part-00007.json"}

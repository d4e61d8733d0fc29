import random

import numpy as np
import pytest
from etils import epath

from salt_jax.data.preparing.counts import Counts
from salt_jax.data.preparing.cut import cut
from salt_jax.data.preparing.merge import MergePlan
from salt_jax.data.preparing.sorted_runs import PartRuns, SortedRun
from salt_jax.data.preparing.tokenization import TokenizedBlock

DOMAINS = ["A", "B", "C"]


def make_text(draw, count, first_number, num_keys):
    """Returns documents of one token each repeated, which tells them apart."""
    lengths = np.array([draw.randint(1, 9) for _ in range(count)])
    return TokenizedBlock(
        tokens=np.repeat([draw.randrange(1 << 16) for _ in range(count)], lengths),
        lengths=lengths,
        num_bytes=lengths,
        numbers=np.arange(first_number, first_number + count),
        keys=np.array([draw.randrange(num_keys) for _ in range(count)], np.uint64)
        * np.uint64((1 << 64) // num_keys),
        domains=[draw.choice(DOMAINS) for _ in range(count)],
        other_domains=frozenset(),
        num_records=count,
        bad_records=[],
    )


def make_parts(folder, seed, num_keys):
    """Writes parts of several runs; returns them, and all documents in their order."""
    draw = random.Random(seed)
    parts, documents = [], []
    for index in range(3):
        counts, runs = Counts(), []
        for number in range(draw.randint(1, 3) if index else 0):
            text = make_text(draw, draw.randint(1, 30), 1 + 100 * number, num_keys)
            counts.add_text(text)
            runs.append(SortedRun(folder, f"{index}-{number}"))
            runs[-1].write([text], {x: i for i, x in enumerate(counts.documents)})
            tokens = np.split(text.tokens, np.cumsum(text.lengths)[:-1])
            columns = (text.keys.tolist(), text.numbers.tolist(), text.domains, tokens)
            documents += [
                (key, index, number, domain, tokens.tolist())
                for key, number, domain, tokens in zip(*columns, strict=True)
            ]
        parts.append(PartRuns(index=index, counts=counts, runs=runs))
    return parts, sorted(documents)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_keys", [2, 50, 1 << 60])  # Few are often equal.
@pytest.mark.parametrize("bucket_tokens", [10, 200, 1 << 20])
def test_documents_come_sorted_by_key_then_part_then_number(
    seed, num_keys, bucket_tokens, tmp_path
):
    parts, documents = make_parts(epath.Path(tmp_path), seed, num_keys)
    tokens = np.concatenate([np.array(tokens) for *_, tokens in documents])
    order = MergePlan.of(parts, DOMAINS, bucket_tokens=bucket_tokens)
    assert (order.begins[0], order.begins[-1]) == (0, len(tokens))
    some = sorted(random.Random(seed).sample(range(len(tokens) + 1), 2))
    for begin, end in [(0, len(tokens)), some]:
        (whole,) = cut_whole(order, begin, end)
        np.testing.assert_array_equal(whole.tokens, tokens[begin:end])
        lengths = [len(tokens) for *_, tokens in documents]
        starts = np.cumsum(lengths) - lengths
        wanted = (starts < end) & (starts + lengths > begin)
        np.testing.assert_array_equal(whole.starts, starts[wanted])
        found = [DOMAINS[domain] for domain in whole.domains]
        assert found == [x[3] for x, w in zip(documents, wanted, strict=True) if w]


def cut_whole(order, begin, end):
    pieces = order.token_ranges(begin, end)
    return cut(pieces, begin=begin, end=end, seq_len=max(end - begin, 1))


def test_a_range_reads_only_the_documents_that_have_some_of_it(tmp_path):
    parts, documents = make_parts(epath.Path(tmp_path), 1, 1 << 60)
    order = MergePlan.of(parts, DOMAINS, bucket_tokens=1 << 20)
    lengths = [len(tokens) for *_, tokens in documents]
    for index in (0, 1, 5):
        begin = sum(lengths[:index])
        (token_range,) = order.token_ranges(begin, begin + lengths[index])
        assert token_range.tokens.tolist() == documents[index][-1]

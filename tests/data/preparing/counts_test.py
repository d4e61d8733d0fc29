import json

import numpy as np
import pytest

from salt_jax.data.preparing.counts import Counts
from salt_jax.data.preparing.tokenization import TokenizedBlock


def text(domains, other=(), bad=()):
    count = len(domains)
    return TokenizedBlock(
        tokens=np.zeros(3 * count, np.uint16),
        lengths=np.full(count, 3),
        num_bytes=np.arange(count),
        numbers=np.arange(count),
        keys=np.zeros(count, np.uint64),
        domains=domains,
        other_domains=frozenset(other),
        num_records=count + len(bad),
        bad_records=bad,
    )


def test_parts_add_up_to_the_whole():
    texts = [
        text(["B", "A", "B"], bad=["x:1", "x:2"]),
        text(["C", "A"], other=["D"], bad=["y:1"]),
    ]
    whole, parts = Counts(), []
    for some in texts:
        whole.add_text(some)
        parts.append(Counts())
        parts[-1].add_text(some)
    assert Counts.of_parts(parts) == whole
    assert whole.documents == {"A": 2, "B": 2, "C": 1}
    assert whole.tokens == {"A": 6, "B": 6, "C": 3}
    assert whole.text_bytes == {"A": 2, "B": 2, "C": 0}
    assert (whole.num_records, whole.num_bad, whole.first_bad) == (8, 3, "x:1")
    assert whole.other_domains == {"D"}


def test_counts_come_back_from_json_with_the_domains_in_their_order():
    counts = Counts()
    counts.add_text(text(["B", "\u00fc\ud800", "A"], other=["D"], bad=["y:3"]))
    found = Counts.from_record(json.loads(json.dumps(counts.to_record())))
    assert found == counts
    assert list(found.documents) == ["B", "\u00fc\ud800", "A"]


def test_more_domains_than_a_record_can_name_are_refused():
    with pytest.raises(ValueError, match=r"32769 domains.*32768: .*fields\.domain"):
        Counts().add_text(text([str(index) for index in range(32_769)]))
    halves = [Counts(), Counts()]
    for half, first in zip(halves, (0, 20_000), strict=True):
        half.add_text(text([str(index) for index in range(first, first + 20_000)]))
    with pytest.raises(ValueError, match="40000 domains"):
        Counts.of_parts(halves)

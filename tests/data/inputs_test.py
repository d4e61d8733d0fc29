"""A share of launch/soak.sh: mutated files of others are read, or refused by name."""

import pytest

from tests.soak import inputs
from tests.soak.foreign_files import READERS

SLOW = ("TFRecord examples", "gin file", "few-shot documents")


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in READERS)],
)
def test_mutated_files_are_read_or_refused_as_declared(name, tmp_path):
    found = inputs.fuzz(name, tmp_path, 40 if name in SLOW else 100, seed=1)
    assert found.keys() <= {"read", "refused"}

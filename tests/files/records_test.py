"""A record comes back as it was written, or is refused with the name of its file."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salt_jax.files import records


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    name: str
    sizes: tuple[int, ...]
    share: float = 0.5


FIELDS = {"name": "x", "sizes": [1, 2], "share": 0.25}


def test_a_record_comes_back_as_its_type(tmp_path):
    records.write_record(tmp_path / "a.json", FIELDS)
    read = records.read_record(tmp_path / "a.json", About, remedy="write it again")
    assert read == About(name="x", sizes=(1, 2), share=0.25)


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    records.write_record(path, FIELDS)
    whole = path.read_bytes()
    written = records.read_record(path, About, remedy="write it again")
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            read = records.read_record(path, About, remedy="write it again")
        except ValueError as error:
            assert str(path) in str(error) and "write it again" in str(error)
        else:
            assert read == written


@given(st.binary(max_size=40))
def test_whatever_a_file_holds_the_refusal_is_a_value_error(contents):
    for kind in (About, dict, list[int], int):
        try:
            records.decode(contents, kind, where="f.json", remedy="write it again")
        except ValueError as error:
            assert "f.json" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"share": "half"}, "share"),
        ({"sizes": [1.5]}, "sizes"),
        ({"name": None}, "name"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(changed, match):
    text = json.dumps(records.seal(FIELDS | changed))
    with pytest.raises(ValueError, match=match):
        records.decode_record(text, About, where="f.json", remedy="write it again")


def test_very_deep_json_is_refused():
    with pytest.raises(ValueError, match=r"f\.json"):
        records.decode("[" * 200_000, dict, where="f.json", remedy="write it again")

import pytest
from etils import epath

from salt_jax.data import json_files


@pytest.mark.parametrize(
    "text", ["{", "", "[1]", '"a"', "\udcff".encode("utf-8", "surrogateescape")]
)
def test_what_is_no_json_object_is_refused_with_its_place_and_a_remedy(text):
    with pytest.raises(ValueError, match=r"^a\.json:3 .*: fetch it again\.$"):
        json_files.parse_object(text, where="a.json:3", remedy="fetch it again")


def test_what_is_written_is_read_and_leaves_no_partial_file(tmp_path):
    path = epath.Path(tmp_path) / "a.json"
    for value in ({"a": 1}, {"b": [None, "\u2603"]}):
        json_files.write_json(path, value)
        assert json_files.read_object(path, remedy="") == value
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "a.json"
    json_files.write_json(path, {"a": 1})

    def half(self, text, *args, **kwargs):
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError("no room")

    monkeypatch.setattr(type(path), "write_text", half)
    with pytest.raises(OSError, match="no room"):
        json_files.write_json(path, {"a": 2})
    assert json_files.read_object(path, remedy="") == {"a": 1}

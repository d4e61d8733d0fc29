import contextlib
import json
import os

import pytest
from etils import epath
from etils.epath import gpath

from salt_jax.few_shot import harness

SAMPLE = {
    "doc_id": 0,
    "arguments": [("The capital is", " Rome")],
    "resps": [[(-1.0, True)]],
    "filtered_resps": [(-1.0, True)],
    "target": 0,
    **dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), "0"),
}


def results():
    samples = {"capital": [dict(SAMPLE)]}
    return {"results": {"capital": {"acc,none": 1.0}}, "samples": samples}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder of this machine that epath, and nothing else, finds as a bucket."""
    folder = tmp_path / "bucket"
    folder.mkdir()

    def at(function, path, *others, **named):
        path = os.fspath(path).replace("gs://bucket", str(folder))
        return function(path, *others, **named)

    names = ("open", "exists", "makedirs", "mkdir", "isdir")
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(epath.testing.mock_epath(**dict.fromkeys(names, at)))
        yield folder


def test_what_lm_eval_writes_is_found_where_it_cannot_write(bucket, tmp_path):
    harness.write_results("gs://bucket/asked", "slm", results(), {"limit": 1})
    (said,) = (bucket / "asked" / "slm").glob("results_*.json")
    assert json.loads(said.read_text())["config"] == {"limit": 1}
    (samples,) = (bucket / "asked" / "slm").glob("samples_capital_*.jsonl")
    assert json.loads(samples.read_text())["target"] == "0"
    assert list(tmp_path.iterdir()) == [bucket]


def test_what_lm_eval_could_not_write_is_an_error(tmp_path, monkeypatch):
    def fails(*_):
        pass

    monkeypatch.setattr(harness.EvaluationTracker, "save_results_samples", fails)
    with pytest.raises(OSError, match="could not write .*samples_capital_"):
        harness.write_results(tmp_path, "slm", results(), {})
    assert list(tmp_path.iterdir()) == []

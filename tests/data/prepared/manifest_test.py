import dataclasses
import json

import pytest
from etils import epath

from salt_jax.data.corpora.document import Fields
from salt_jax.data.prepared.manifest import FORMAT_VERSION, NAME, Manifest
from salt_jax.files.records import write_record


def write(folder, manifest, change=lambda record: None):
    record = json.loads(json.dumps(dataclasses.asdict(manifest)))
    change(record)
    write_record(folder / NAME, record)
    return epath.Path(folder)


@pytest.mark.parametrize("domains", [None, ("Github", "KJV Bible")])
def test_a_manifest_comes_back_from_its_file(domains, train, tmp_path):
    settings = dataclasses.replace(
        train.manifest.settings,
        domains=domains,
        fields=Fields(text="a.b", default_domain="c"),
    )
    manifest = dataclasses.replace(train.manifest, settings=settings)
    found = Manifest.read(write(tmp_path, manifest))
    assert found == manifest
    assert found.fingerprint == manifest.fingerprint != train.manifest.fingerprint


def test_an_older_format_is_refused_with_both_versions(train, tmp_path):
    path = write(
        tmp_path, train.manifest, lambda x: x["settings"].update(format_version=1)
    )
    with pytest.raises(
        ValueError, match=f"of format 1, .* reads format {FORMAT_VERSION}"
    ):
        Manifest.read(path)


def test_a_shard_listed_twice_is_refused_by_name(train, tmp_path):
    path = write(tmp_path, train.manifest, lambda x: x["shards"].append(x["shards"][0]))
    name = train.manifest.shards[0].name
    with pytest.raises(ValueError, match=rf"duplicated ids: it lists {name} more than"):
        Manifest.read(path)


@pytest.mark.parametrize("field", ["shards", "domains", "domain_counts"])
def test_a_manifest_that_lacks_something_is_refused(field, train, tmp_path):
    path = write(tmp_path, train.manifest, lambda x: x.pop(field))
    with pytest.raises(ValueError, match=r"manifest\.json .*delete"):
        Manifest.read(path)


def test_a_shard_knows_how_large_its_file_is(train):
    for shard in train.manifest.shards:
        assert (train.path / shard.name).stat().length == shard.num_bytes

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.records import write_record
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.storage.array_files import fingerprint, write_arrays
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import new_export, write_export

MODEL = TransformerConfig(
    vocab_size=32,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    logit_softcap=30.0,
)
ON_2X4 = Partitioning(mesh=MeshShape(data=2, model=4).build())
ON_8X1 = Partitioning(mesh=MeshShape(data=8, model=1).build())
ON_ONE = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
VOCABULARY = b"the pieces of a vocabulary"
SEQ_LEN = 16
PROVENANCE = {"workdir": "runs/slm", "step": 26_000, "experiment": "0badcafe"}


def init(key=jax.random.key(0), dtype=jnp.float32, embed_dim=16):
    def box(axes, *shape):
        return nn.Partitioned(jax.random.normal(key, shape).astype(dtype), axes)

    return {
        "params": {
            "embedding_VD": box(("vocab", "vocab_embed"), 32, embed_dim),
            "layers": {"gate": box(("layers", "embed", "mlp"), 2, embed_dim, 32)},
            "final_norm": {"scale": box(("embed",), embed_dim)},
        }
    }


def like(partitioning=ON_2X4, **options):
    return partitioning.abstract(lambda: init(**options))


@pytest.fixture(scope="module")
def params():
    return ON_2X4.materialize(init)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "spm.model"
    path.write_bytes(VOCABULARY)
    return path


@pytest.fixture
def write(tmp_path, params, vocabulary):
    def write(dtype="float32", path=tmp_path / "exports" / "slm", **options):
        options = {"params": params, "vocabulary": vocabulary, "dtype": dtype} | options
        write_export(
            path, model=MODEL, provenance=PROVENANCE, seq_len=SEQ_LEN, **options
        )
        return path

    return write


def edit(path, **fields):
    write_record(path, json.loads(path.read_text()) | fields)


@pytest.mark.parametrize("target", [ON_2X4, ON_8X1, ON_ONE], ids=["2x4", "8x1", "1"])
def test_params_come_back_bit_for_bit_on_any_mesh(write, params, target):
    found = Export.open(write()).load(like(target))
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(
        lambda x: x.sharding, like(target)
    )


@pytest.mark.parametrize("wanted", [jnp.bfloat16, jnp.float32])
def test_an_export_in_bfloat16_is_the_params_rounded_in_the_dtype_asked(
    write, params, wanted
):
    found = Export.open(write("bfloat16")).load(like(dtype=wanted))
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(wanted), params)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(wanted)}


def test_an_export_says_what_it_is(write, params):
    path = write("bfloat16")
    export = Export.open(path)
    sha256 = hashlib.sha256(VOCABULARY).hexdigest()
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert dataclasses.asdict(export) == {
        "path": path,
        "model": dataclasses.asdict(MODEL),
        "dtype": "bfloat16",
        "fingerprint": fingerprint(narrow),
        "vocabulary_fingerprint": sha256,
        "provenance": PROVENANCE,
        "seq_len": SEQ_LEN,
        "vocabulary_file": "vocabulary.model",
    }
    assert export.model == MODEL
    assert export.vocabulary_path.read_bytes() == VOCABULARY
    readme = (path / "README.md").read_text()
    for words in ("2\nlayers", "runs/slm", "26000", "0badcafe", sha256):
        assert words in readme


def test_nothing_is_left_beside_an_export(write):
    path = write()
    assert [entry.name for entry in path.parent.iterdir()] == ["slm"]
    assert sorted(entry.name for entry in path.iterdir()) == [
        "README.md",
        "export.json",
        "model.json",
        "params",
        "vocabulary.model",
    ]


def test_an_export_that_was_cut_off_is_not_there_and_may_be_written_again(
    write, params, tmp_path
):
    def write_then_die(folder):
        write_arrays(folder, params)
        raise KeyboardInterrupt

    path = tmp_path / "exports" / "slm"
    with pytest.raises(KeyboardInterrupt):
        new_export(
            path,
            write_then_die,
            model=MODEL,
            vocabulary=("vocabulary.model", VOCABULARY),
            provenance=PROVENANCE,
            dtype="float32",
            seq_len=SEQ_LEN,
        )
    assert not path.exists()
    write()
    jax.tree.map(np.testing.assert_array_equal, Export.open(path).load(like()), params)


# ---- Fingerprints --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fingerprint_is_the_same_on_any_mesh(dtype):
    meshes = (ON_2X4, ON_8X1, ON_ONE)
    made = [mesh.materialize(lambda: init(dtype=dtype)) for mesh in meshes]
    assert len({fingerprint(params) for params in made}) == 1


def test_a_fingerprint_changes_with_a_bit_an_order_a_name_a_shape_or_a_dtype():
    x = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    one_bit = jax.lax.bitcast_convert_type(bits.at[1, 2].set(bits[1, 2] ^ 1), x.dtype)
    trees = [
        {"a": x},
        {"a": one_bit},
        {"a": x[::-1]},
        {"a": x[:, ::-1]},
        {"a": x.at[1, 0].set(x[0, 1]).at[0, 1].set(x[1, 0])},
        {"b": x},
        {"a": x.reshape(4, 3)},
        {"a": x.astype(jnp.bfloat16)},
        {"a": x, "b": x},
        {"a": -x},
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)


# ---- Refusals ------------------------------------------------------------------------


def test_a_missing_export_is_refused_with_how_to_make_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=rf"No export at {tmp_path / 'none'}; .*salt_jax\.main export",
    ):
        Export.open(tmp_path / "none")


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no export: it has no export\.json"):
        Export.open(tmp_path)


@pytest.mark.parametrize("version", [1, 2, None])
def test_another_format_is_refused_with_both_versions(write, version):
    path = write()
    edit(path / "export.json", format_version=version)
    message = rf"version {version}; .* version 3\."
    with pytest.raises(ValueError, match=message):
        Export.open(path)


def test_an_export_knows_the_length_it_was_trained_with(write):
    assert Export.open(write()).seq_len == SEQ_LEN


@pytest.mark.parametrize("name", ["export.json", "model.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [('{"dtype":', "cannot be read"), ("[1]", "got `array`"), (None, "no export")],
)
def test_a_broken_file_is_refused_by_name(write, name, content, message):
    path = write()
    (path / name).unlink() if content is None else (path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Export.open(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_export_that_lacks_a_field_is_refused_by_the_field(write):
    path = write()
    about = json.loads((path / "export.json").read_text())
    del about["dtype"]
    write_record(path / "export.json", about)
    with pytest.raises(ValueError, match=r"export\.json .*`dtype`"):
        Export.open(path)


@pytest.mark.parametrize(
    "fields", [{"num_experts": 8}, {"num_heads": 3, "num_kv_heads": 2}]
)
def test_a_model_that_cannot_be_is_refused(write, fields):
    path = write()
    edit(path / "model.json", **fields)
    with pytest.raises(ValueError, match=r"num_experts|num_kv_heads=2 does not divide"):
        Export.open(path)


@pytest.mark.parametrize("name", ["../vocabulary.model", "/etc/passwd", "..", ""])
def test_an_export_does_not_name_files_outside_its_folder(write, name):
    path = write()
    about = json.loads((path / "export.json").read_text())
    digest = about["files"].pop("vocabulary.model")
    files = about["files"] | {name: digest}
    write_record(
        path / "export.json", about | {"vocabulary_file": name, "files": files}
    )
    with pytest.raises(ValueError, match=r"export\.json names .* in another folder"):
        Export.open(path)


def test_the_model_of_another_export_is_refused_by_name(write, tmp_path):
    path = write()
    edit(path / "model.json", num_layers=7)
    with pytest.raises(ValueError, match=rf"{path}/model\.json is damaged"):
        Export.open(path)


def test_a_vocabulary_that_was_changed_is_refused_with_both_digests(write):
    path = write()
    (path / "vocabulary.model").write_bytes(b"other pieces")
    was, now = (
        hashlib.sha256(x).hexdigest()[:12] for x in (VOCABULARY, b"other pieces")
    )
    with pytest.raises(ValueError, match=rf"SHA-256 is {now}, not {was}"):
        Export.open(path)


def test_a_vocabulary_that_is_gone_is_refused(write):
    path = write()
    (path / "vocabulary.model").unlink()
    with pytest.raises(ValueError, match=r"vocabulary\.model is missing"):
        Export.open(path)


def vocabulary_of(name, fingerprint):
    return Vocabulary(path=epath.Path(name), fingerprint=fingerprint, codec=None)


def test_an_export_is_opened_for_its_own_model_and_vocabulary(write):
    path, own = write(), hashlib.sha256(VOCABULARY).hexdigest()
    found = Export.open_for(path, MODEL, vocabulary_of("copy.model", own))
    assert found == Export.open(path)


def test_another_vocabulary_is_refused_with_both_fingerprints(write):
    path, own = write(), hashlib.sha256(VOCABULARY).hexdigest()[:12]
    other = vocabulary_of("other.model", "abcdef1234567890")
    with pytest.raises(ValueError, match=rf"{own}.*other\.model \(abcdef123456\)"):
        Export.open_for(path, MODEL, other)


def test_another_model_is_refused_with_both_values(write):
    wanted = dataclasses.replace(MODEL, num_layers=3)
    own = vocabulary_of("copy.model", hashlib.sha256(VOCABULARY).hexdigest())
    with pytest.raises(ValueError, match="num_layers=2, not 3"):
        Export.open_for(write(), wanted, own)


@pytest.mark.parametrize("damage", ["truncated", "removed", "flipped"])
def test_damaged_params_are_refused_in_one_line_that_names_the_export(write, damage):
    path = write()
    files = [file for file in (path / "params").rglob("d/*") if file.is_file()]
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes(content if damage == "flipped" else content[:20])
    with pytest.raises(
        ValueError, match=rf"The export at {path} is damaged: "
    ) as error:
        Export.open(path).load(like())
    assert "\n" not in str(error.value)


def test_params_that_are_whole_but_others_are_refused(write, tmp_path, params):
    path = write()
    other = jax.tree.map(lambda x: x + 1, params)
    elsewhere = write(path=tmp_path / "other", params=other)
    (path / "params").rename(tmp_path / "old")
    (elsewhere / "params").rename(path / "params")
    with pytest.raises(ValueError, match="its arrays have fingerprint"):
        Export.open(path).load(like())


def test_params_of_another_shape_are_refused_by_the_array(write):
    with pytest.raises(ValueError, match=r"float32\[32, 16\] as 'params.embedding_VD'"):
        Export.open(write()).load(like(embed_dim=32))


def test_an_export_is_not_written_over_what_is_there(write):
    path = write()
    with pytest.raises(ValueError, match=rf"Not exporting to {path}: "):
        write()


def test_a_dtype_that_is_not_offered_is_refused(write):
    with pytest.raises(ValueError, match="dtype='float16' is not one of bfloat16"):
        write("float16")


def test_a_vocabulary_that_is_not_there_is_refused(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="No vocabulary at"):
        write(vocabulary=tmp_path / "none.model")

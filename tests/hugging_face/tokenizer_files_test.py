"""Tokenizer files, compared with what transformers makes of them."""

import json

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_jax.data import embedded
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face.tokenizer_files import read_tokenizer, tokenizer_files
from tests import small_tokenizers

EMBEDDED = ("embedded:tokenizer/spm_4k.model", "embedded:tokenizer/spm_4k_ul2.model")
FRAGMENTS = (
    *(
        " ",
        "  ",
        "    ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\0",
        "\u2581",
        "\ufeff",
        "\u00a0",
    ),
    *("<pad>", "</s>", "<unk>", "<extra_id_0>", "<0x41>", "<0xE2>", "<s>", "<|end|>"),
    *("the", " the", "The", "ing", "=" * 9, "-" * 40, "....", "def f(x):", "0", "2026"),
    *("\u00e9", "e\u0301", "\u4e2d\u6587", "\U0001f600", "\U0010ffff", "\ufffd"),
)
texts = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(codec="utf-8"), max_size=9)
).map("".join)


@pytest.fixture(scope="module", params=EMBEDDED)
def ours(request):
    return Vocabulary.open(request.param)


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    return written(ours, tmp_path_factory.mktemp("written"))


def write_tokenizer(vocabulary, folder, *, model_type=None):
    """Writes the tokenizer files of a vocabulary into `folder`."""
    contents = tokenizer_files(vocabulary, model_type=model_type)
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def written(vocabulary, folder):
    """Returns what transformers makes of the files that are written."""
    write_tokenizer(vocabulary, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@settings(max_examples=400, deadline=None)
@given(texts)
def test_every_text_has_our_tokens_and_comes_back(ours, theirs, text):
    expected = ours.encode(text)
    assert tokens(theirs, text) == expected
    assert theirs.decode(expected) == text


def test_the_embedded_text_has_our_tokens(ours, theirs):
    files = sorted(embedded.resolve("embedded:sft").glob("*/test.jsonl"))
    documents = [line for file in files for line in file.read_text().split("\n")]
    assert len(documents) > 100
    found = theirs(documents, add_special_tokens=False).input_ids
    assert found == [ours.encode(text) for text in documents]


def test_a_long_text_has_our_tokens(ours, theirs):
    text = "so it goes,  and\n    then \u2581\u2603 </s> it went. " * 5_000
    assert tokens(theirs, text) == ours.encode(text)


def test_a_text_begins_as_our_model_reads_it(ours, theirs):
    expected = [ours.begin_id, *ours.encode("so it goes")]
    assert theirs("so it goes").input_ids == expected
    assert theirs.decode(expected, skip_special_tokens=True) == "so it goes"


def test_the_roles_and_the_size_are_ours(ours, theirs):
    roles = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert roles == (ours.begin_id, ours.eos_id, ours.pad_id)
    assert len(theirs) == ours.size


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma", "gemma3_text"])
def test_the_files_are_read_as_they_are_beside_any_model(ours, model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    text = "".join(FRAGMENTS)
    assert tokens(written(ours, tmp_path), text) == ours.encode(text)


def test_a_model_beside_which_they_are_not_read_as_they_are_is_refused(ours, tmp_path):
    with pytest.raises(ValueError, match="qwen2"):
        write_tokenizer(ours, tmp_path, model_type="qwen2")
    assert not list(tmp_path.iterdir())


def train_model(folder, lines, **options):
    defaults = {
        "vocab_size": 420,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "small"),
        hard_vocab_limit=False,
        minloglevel=2,
        **(defaults | options),
    )
    return Vocabulary.open(folder / "small.model")


LINES = ["the cat sat on the mat", "aaaa aa  aaaaaaa b", "ab abab ababab  ba"] * 9


@pytest.fixture(scope="module")
def repeating(tmp_path_factory):
    """A vocabulary whose pieces repeat others, with its tokenizer files."""
    folder = tmp_path_factory.mktemp("repeating")
    options = {"split_by_whitespace": False, "allow_whitespace_only_pieces": True}
    options["user_defined_symbols"] = ["aba", "abab", "\u2581b", "\n\n"]
    vocabulary = train_model(folder, LINES, **options)
    return vocabulary, written(vocabulary, folder / "written")


@settings(max_examples=400, deadline=None)
@given(st.text("aab \n", max_size=60))
def test_what_repeats_is_joined_in_our_order(repeating, text):
    ours, theirs = repeating
    assert tokens(theirs, text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text


def test_a_model_of_its_own_beginning_keeps_it(tmp_path):
    vocabulary = train_model(tmp_path, LINES, bos_id=1, eos_id=2, pad_id=-1)
    tokenizer = written(vocabulary, tmp_path / "written")
    assert tokenizer("the cat").input_ids[0] == 1
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 290}, "of type unigram"),
        ({"model_type": "char"}, "of type char"),
        ({"add_dummy_prefix": True}, "normalizes"),
        ({"remove_extra_whitespaces": True}, "normalizes"),
        ({"normalization_rule_name": "nfkc"}, "normalizes"),
        ({"byte_fallback": False, "vocab_size": 40}, "normalizes"),
    ],
)
def test_a_model_that_the_files_cannot_express_is_refused(change, message, tmp_path):
    vocabulary = train_model(tmp_path, LINES, **change)
    with pytest.raises(ValueError, match=message) as refused:
        write_tokenizer(vocabulary, tmp_path / "written")
    assert "small.model cannot become a tokenizer.json" in str(refused.value)
    assert not (tmp_path / "written").exists()


def test_a_model_with_a_rule_of_its_own_for_letters_is_refused(tmp_path):
    rules = tmp_path / "rules.tsv"
    rules.write_text("71\t6B\n")  # A q becomes a k.
    vocabulary = train_model(tmp_path, LINES, normalization_rule_tsv=str(rules))
    assert vocabulary.decode(vocabulary.encode("q")) == "k"
    with pytest.raises(ValueError, match="normalizes"):
        write_tokenizer(vocabulary, tmp_path / "written")


def pieces_and_pairs(tokenizer):
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def llama_2():
    pieces, pairs = pieces_and_pairs(small_tokenizers.spaces_written())
    return transformers.LlamaTokenizer(vocab=with_ends(pieces), merges=pairs)


def llama_3():
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizers.byte_level(),
        bos_token="<|begin|>",
        eos_token="<|end|>",
    )


def gemma():
    pieces, pairs = pieces_and_pairs(small_tokenizers.spaces_written())
    return transformers.GemmaTokenizer(vocab=with_ends(pieces), merges=pairs)


def qwen2():
    pieces, pairs = pieces_and_pairs(small_tokenizers.byte_level())
    return transformers.Qwen2Tokenizer(vocab=pieces, merges=pairs)


def with_ends(pieces):
    names = ("<s>", "</s>", "<bos>", "<eos>", "<pad>")
    return pieces | {name: len(pieces) + index for index, name in enumerate(names)}


@pytest.fixture(scope="module", params=[llama_2, llama_3, gemma, qwen2])
def downloaded(request, tmp_path_factory):
    """A folder as transformers writes it, and the tokenizer that it reads from it."""
    folder = tmp_path_factory.mktemp("downloaded")
    request.param().save_pretrained(folder)
    model_type = request.param.__name__.partition("_")[0]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def imported(downloaded, tmp_path_factory):
    contents, name = read_tokenizer(downloaded[0])
    path = tmp_path_factory.mktemp("imported") / name
    path.write_bytes(contents)
    return Vocabulary.open(path)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_a_tokenizer_that_is_read_has_the_tokens_of_transformers(
    imported, downloaded, text
):
    found = downloaded[1](text, add_special_tokens=False, split_special_tokens=True)
    assert imported.encode(text) == found.input_ids


def test_the_roles_are_those_of_transformers(imported, downloaded):
    tokenizer = downloaded[1]
    begin, end, padding = (
        getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")
    )
    begin = end if begin is None else begin  # Qwen's.
    padding = begin if padding is None else padding
    assert (imported.begin_id, imported.eos_id, imported.pad_id) == (
        begin,
        end,
        padding,
    )


def test_what_is_read_is_written_with_the_same_tokens(imported, downloaded, tmp_path):
    about = (downloaded[0] / "config.json").read_text()
    (tmp_path / "config.json").write_text(about)
    model_type = json.loads(about)["model_type"]
    write_tokenizer(imported, tmp_path, model_type=model_type)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "".join(FRAGMENTS)
    assert theirs(text).input_ids == [imported.begin_id, *imported.encode(text)]


def test_what_we_write_is_read_as_it_was(ours, tmp_path):
    write_tokenizer(ours, tmp_path)
    contents, name = read_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(contents)
    again = Vocabulary.open(tmp_path / name)
    text = "".join(FRAGMENTS)
    assert again.encode(text) == ours.encode(text)
    assert again.is_lossless
    # The first three are the ends and what stands for nothing that is known.
    assert (again.byte_lengths() == ours.byte_lengths())[3:].all()
    roles = (again.begin_id, again.eos_id, again.pad_id, again.size)
    assert roles == (ours.begin_id, ours.eos_id, ours.pad_id, ours.size)


@pytest.fixture
def folder(tmp_path):
    """A folder with a tokenizer.json, which does not say what is a beginning."""
    small_tokenizers.byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


NAMED = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}


@pytest.mark.parametrize(
    ("files", "roles"),
    [
        ({"tokenizer_config": NAMED}, (0, 1, 0)),
        ({"special_tokens_map": NAMED | {"pad_token": "<|pad|>"}}, (0, 1, 2)),
        ({"tokenizer_config": NAMED | {"pad_token": "[none]"}}, (0, 1, 0)),
        ({"config": {"bos_token_id": 2, "eos_token_id": 1}}, (2, 1, 2)),
        ({"generation_config": {"eos_token_id": [1, 2]}}, (1, 1, 1)),
        ({"tokenizer_config": NAMED, "config": {"bos_token_id": 2}}, (0, 1, 0)),
        ({"tokenizer_config": NAMED, "config": {"pad_token_id": -1}}, (0, 1, 0)),
        ({"tokenizer_config": NAMED, "config": {"pad_token_id": 2}}, (0, 1, 2)),
        (
            {"tokenizer_config": NAMED | {"bos_token": None}},
            (1, 1, 1),
        ),
    ],
)
def test_the_first_file_that_says_what_a_token_is_for_counts(files, roles, folder):
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    contents, _ = read_tokenizer(folder)
    said = json.loads(contents)["salt_jax"]
    assert (said["begin_id"], said["eos_id"], said["pad_id"]) == roles


TWO = {"eos_token_id": [2, 1]}


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"tokenizer_config": NAMED}, [1]),
        ({"generation_config": TWO}, [2, 1]),
        ({"tokenizer_config": NAMED, "generation_config": TWO}, [1, 2]),
        ({"tokenizer_config": NAMED, "config": TWO}, [1, 2]),
        ({"tokenizer_config": NAMED, "config": {"eos_token_id": 2}}, [1, 2]),
        ({"tokenizer_config": NAMED, "config": {"eos_token_id": 1}}, [1]),
        ({"tokenizer_config": NAMED, "config": {"eos_token_id": [1, 9999]}}, [1]),
        ({"generation_config": {"eos_token_id": 1}, "config": TWO}, [1]),
        ({"generation_config": {"eos_token_id": None}, "config": TWO}, [2, 1]),
    ],
)
def test_all_that_ends_what_a_model_writes_is_kept(files, ends, folder):
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    contents, name = read_tokenizer(folder)
    (folder / name).write_bytes(contents)
    assert Vocabulary.open(folder / name).end_ids == tuple(ends)
    # A vocabulary with one end is the file that it always was.
    said = json.loads(contents)["salt_jax"]
    assert ("other_eos_ids" in said) == (len(ends) > 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'eos_token' into its tokenizer_config.json"),
        ({"eos_token": "</s>"}, "eos_token='</s>'.*tokenizer.json"),
        ({"eos_token": "<|end|>", "bos_token": "<s>"}, "bos_token='<s>'"),
        ([], "tokenizer_config.json"),
    ],
)
def test_a_folder_that_does_not_say_how_texts_end_is_refused(config, message, folder):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_tokenizer(folder)


def test_a_tokenizer_that_is_cut_short_is_refused_by_name(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer\.json is not JSON"):
        read_tokenizer(folder)


def test_a_sentencepiece_model_is_taken_as_it_is_if_there_is_nothing_else(
    ours, tmp_path
):
    contents = ours.path.read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(contents)
    assert read_tokenizer(tmp_path) == (contents, "vocabulary.model")


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No tokenizer\.json .*save_pretrained"
    ):
        read_tokenizer(tmp_path)

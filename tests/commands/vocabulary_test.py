import re

import pytest

from salt_jax.data import embedded
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.main import main
from tests.data.conftest import write_corpus

SMALL, WITH_SENTINELS = (
    f"embedded:tokenizer/{name}.model" for name in ("spm_4k", "spm_4k_ul2")
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_sentinels_and_mode_tokens_make_of_the_demo_vocabulary_that_of_its_ul2(
    tmp_path, capsys
):
    output = tmp_path / "new.model"
    arguments = [f"--from={SMALL}", "--sentinels=125", "--mode_tokens=[R],[S],[X]"]
    assert main(["vocabulary", *arguments, f"--output={output}"]) == 0
    assert output.read_bytes() == embedded.resolve(WITH_SENTINELS).read_bytes()
    assert "vocab_size of at least 4224" in capsys.readouterr().out


def test_only_pieces_that_are_missing_are_added(tmp_path):
    output = tmp_path / "new.model"
    arguments = [f"--from={WITH_SENTINELS}", "--sentinels=127", "--mode_tokens=[S]"]
    assert main(["vocabulary", *arguments, f"--output={output}"]) == 0
    vocabulary = Vocabulary.open(output)
    assert vocabulary.size == 4226
    assert vocabulary.piece_id("<extra_id_126>") == 4225


def test_a_vocabulary_is_trained_on_a_corpus_that_prepare_reads(corpus, tmp_path):
    output = tmp_path / "new.model"
    arguments = [f"--corpus={corpus}", "--size=300", "--sentinels=7"]
    assert main(["vocabulary", *arguments, f"--output={output}"]) == 0
    vocabulary = Vocabulary.open(output)
    assert (vocabulary.size, vocabulary.piece_id("<extra_id_6>")) == (300, 299)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--corpus={corpus}", "--size=256000"], "at most [0-9]+ tokens.*256,000"),
        (["--corpus={corpus}", "--size=300", "--text_field=body"], "no 'body'"),
        (["--corpus={corpus}", "--size=300", "--split=dev"], "no split 'dev'"),
        (["--corpus={corpus}"], "--size"),
        (["--corpus={corpus}", "--from=a.model", "--size=9"], "--from=a.model"),
        (["--size=300"], "--corpus=None and --from=None"),
        (["--from=a.model", "--seed=1"], "--seed is for --corpus"),
        (["--from=a.model"], "No vocabulary at a.model"),
        (["--from=a.model", "--sentinels=-1"], "--sentinels .*-1"),
        (["--from=embedded:tokenizer/spm_4k_ul2.model"], "all of the 100 pieces"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    arguments, said, corpus, tmp_path, capsys
):
    given = [argument.format(corpus=corpus) for argument in arguments]
    assert main(["vocabulary", *given, f"--output={tmp_path / 'new.model'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("salt_jax: ")
    assert re.search(said, error)
    assert not [*tmp_path.iterdir()]


def test_an_ending_that_hides_the_kind_of_file_is_refused(tmp_path, capsys):
    output = tmp_path / "new.json"
    assert main(["vocabulary", f"--from={SMALL}", f"--output={output}"]) == 2
    assert "must end in .model" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    output = tmp_path / "new.model"
    output.write_text("dear")
    assert main(["vocabulary", f"--from={SMALL}", f"--output={output}"]) == 2
    assert "new.model exists" in capsys.readouterr().err
    assert output.read_text() == "dear"

import pytest

from salt_jax.generation.generate import generate, stream
from salt_jax.generation.sampling import Sampling
from salt_jax.storage.loaded import LoadedModel
from tests.generation.said import SENTENCE, make_export


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model that says one sentence again and again, on all devices."""
    return LoadedModel.open(make_export(tmp_path_factory.mktemp("said") / "export"))


def test_texts_go_on_from_their_prompts_in_order(loaded):
    prompts = ["", "The capital of", "Elsewhere,", "The capital of France is"]
    texts = generate(loaded, prompts, max_new_tokens=25, stop=["."], batch_size=2)
    whole = SENTENCE.removesuffix(".")
    assert texts == [whole, " France is Paris", whole, " Paris"]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.1, seed=3)])
def test_a_stream_gives_what_a_batch_gives(loaded, sampling):
    options = {"max_new_tokens": 25, "stop": ["is Rome", "city"], "sampling": sampling}
    (text,) = generate(loaded, ["The capital"], **options)
    pieces = list(stream(loaded, "The capital", **options))
    assert "".join(pieces) == text and len(pieces) > 1
    assert text.startswith(" of France is Paris.The capital of France")


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_streamed(loaded):
    with pytest.raises(ValueError, match="exceeds the 64 that the model reads"):
        stream(loaded, "a", max_new_tokens=64)
    with pytest.raises(ValueError, match="Prompt 2 has 61 tokens, and with max_new"):
        generate(loaded, ["a", "a\n" * 30 + "a"], max_new_tokens=4)

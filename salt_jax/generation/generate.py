"""What an exported model writes after texts, all at once or as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from salt_jax.generation.generator import Generator
from salt_jax.generation.sampling import Sampling
from salt_jax.storage.loaded import LoadedModel


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    sampling: Sampling = Sampling(),
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 8,
) -> list[str]:
    """Returns the text that follows each prompt.

    Args:
      loaded: The model.
      prompts: The beginnings of texts.
      sampling: How each token is drawn; by default it is the likeliest.
      max_new_tokens: The most that follow a prompt.
      stop: Strings of which the first to appear ends a text, and is left out.
      batch_size: How many prompts are gone on with at a time. Texts do not depend on
        it, except where two tokens are equally likely up to rounding.

    Raises:
      ValueError: a prompt and what follows it exceed the length of the model; an
        argument is out of range.
    """
    generator = Generator(
        loaded.model, loaded.vocabulary, loaded.max_length, batch_size=batch_size
    )
    return generator.texts(
        loaded.params,
        [loaded.vocabulary.encode(prompt) for prompt in prompts],
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stop=stop,
    )


def stream(
    loaded: LoadedModel,
    prompt: str,
    *,
    sampling: Sampling = Sampling(),
    max_new_tokens: int,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yields the text that follows a prompt in pieces, a few tokens each.

    No piece has part of a character, or of a stop string. Put together they are what
    `generate` returns for the prompt alone. Arguments and errors are those of
    `generate`.
    """
    generator = Generator(loaded.model, loaded.vocabulary, loaded.max_length)
    return generator.stream(
        loaded.params,
        loaded.vocabulary.encode(prompt),
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stop=stop,
    )

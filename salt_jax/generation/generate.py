"""Generates text with an exported model, at once or streamed."""

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
      prompts: The prompts.
      sampling: How to sample each token; greedy by default.
      max_new_tokens: The maximum number of new tokens per prompt.
      stop: Generation ends before the first of these strings.
      batch_size: The number of prompts per batch. Results do not depend on it, except
        where rounding decides between equally likely tokens.

    Raises:
      ValueError: a prompt with its new tokens exceeds the model's length; an argument
        is out of range.
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
    """Yields the text that follows a prompt in pieces of a few tokens.

    Pieces end at whole characters and never contain a part of a stop string. Joined,
    they are what `generate` returns for this prompt alone. Arguments and errors are
    those of `generate`.
    """
    generator = Generator(loaded.model, loaded.vocabulary, loaded.max_length)
    return generator.stream(
        loaded.params,
        loaded.vocabulary.encode(prompt),
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stop=stop,
    )

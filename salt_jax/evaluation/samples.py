"""Samples of a trained model: continuations of held-out documents."""

from __future__ import annotations

import numpy as np

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation.generator import Generator
from salt_jax.generation.sampling import Sampling
from salt_jax.model.transformer import Params
from salt_jax.training.program import Program

_MOST_LOOKED_AT = 2000  # Sequences that are searched for documents to continue.
_PROMPT_TOKENS, _MOST_WRITTEN = 48, 80
_DOMAINS = 4


def samples(
    program: Program, params: Params, data: PreparedText
) -> list[dict[str, str]]:
    """Continues the first long document of each of up to four domains.

    Returns:
      Samples, each with "domain", "prompt" (held-out text) and "continuation".
    """
    seq_len = program.experiment.seq_len
    vocabulary = Vocabulary.open(data.vocabulary)
    prompts = _beginnings(data.open(seq_len=seq_len))
    if not prompts:
        return []
    generator = Generator(program.student, vocabulary, seq_len, batch_size=_DOMAINS)
    texts = generator.texts(
        params,
        [prompt.tolist() for prompt in prompts.values()],
        sampling=Sampling(temperature=0.7),
        max_new_tokens=min(_MOST_WRITTEN, seq_len - _PROMPT_TOKENS),
    )
    return [
        {"domain": domain, "prompt": vocabulary.decode(prompt), "continuation": text}
        for (domain, prompt), text in zip(prompts.items(), texts, strict=True)
    ]


def _beginnings(dataset: PreparedDataset) -> dict[str, np.ndarray]:
    """Returns the first tokens of the first long document of each domain."""
    found: dict[str, np.ndarray] = {}
    for number in range(min(len(dataset), _MOST_LOOKED_AT)):
        sequence = dataset.read(np.array([number]))
        for begin in np.flatnonzero(sequence.positions[0] == 0):
            segment = sequence.segments[0, begin]
            tokens = sequence.tokens[0][sequence.segments[0] == segment]
            name = dataset.manifest.domains[sequence.domains[0, begin]]
            # A row may begin in the middle of a document, so its first one is skipped.
            is_long = begin and segment and len(tokens) > _PROMPT_TOKENS
            if is_long and name not in found:
                found[name] = tokens[:_PROMPT_TOKENS]
        if len(found) >= _DOMAINS:
            break
    return dict(list(found.items())[:_DOMAINS])

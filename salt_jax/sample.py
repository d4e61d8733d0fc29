"""What a model writes when it goes on with a text.

Dimensions: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.pile import Pile
from salt_jax.data.reading.rows import BEGIN_ID
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.model.transformer import Params, Transformer
from salt_jax.program import Program

MOST_LOOKED_AT = 2000  # Sequences, for documents to go on with.


def continuations(
    model: Transformer,
    params: Params,
    prompts: np.ndarray,
    *,
    num_tokens: int,
    temperature: float,
    seed: int = 0,
) -> np.ndarray:
    """Returns sampled tokens that follow `prompts`.

    Each token costs a forward pass over the whole row: this is for a glance at a
    model, not for serving it.

    Args:
      model: A decoder.
      params: Its parameters.
      prompts: Tokens, int [N, P]: the beginnings of documents, of one length.
      num_tokens: How many to sample for each.
      temperature: Divides the logits; 0 takes the likeliest token.
      seed: Of the sampling.

    Returns:
      int32 [N, num_tokens].
    """
    count, prompt_length = prompts.shape
    shards = model.partitioning.size("batch")
    rows = -(-count // shards) * shards
    tokens_BL = np.full((rows, prompt_length + num_tokens), BEGIN_ID, np.int32)
    tokens_BL[:count, 1 : prompt_length + 1] = prompts
    extend = jax.jit(
        functools.partial(_extend, model, prompt_length, num_tokens, temperature),
        out_shardings=model.partitioning.sharding(),
    )
    return np.asarray(extend(params, tokens_BL, jax.random.key(seed)))[:count]


def samples(program: Program, params: Params, data: Pile) -> list[dict[str, str]]:
    """Returns how the student goes on with the first document of each of some domains.

    Returns:
      Each a "domain", a "prompt" of held-out text and the model's "continuation".
    """
    dataset = data.open(seq_len=program.experiment.seq_len)
    vocabulary = Vocabulary.open(data.vocabulary)
    begun = _beginnings(dataset, prompt_length=48, most=4)
    if not begun:
        return []
    prompts = np.stack(list(begun.values()))
    written = continuations(
        program.student, params, prompts, num_tokens=80, temperature=0.7
    )
    return [
        {
            "domain": domain,
            "prompt": vocabulary.decode(prompt),
            "continuation": vocabulary.decode(_until_end(tokens, vocabulary.eos_id)),
        }
        for domain, prompt, tokens in zip(begun, prompts, written, strict=True)
    ]


def _extend(model, prompt_length, num_tokens, temperature, params, tokens_BL, key):
    shape = tokens_BL.shape
    ones_BL = jnp.ones(shape, jnp.int32)
    positions_BL = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    # One column more to write into than is read: the last token is not read again.
    tokens_BL = jnp.pad(tokens_BL, ((0, 0), (0, 1)))

    def add(i, tokens_BL):
        batch = Batch(
            tokens_BL=tokens_BL[:, :-1],
            targets_BL=tokens_BL[:, 1:],
            weights_BL=ones_BL.astype(jnp.float32),
            segments_BL=ones_BL,
            positions_BL=positions_BL,
        )
        read = model.apply(params, batch)
        at = prompt_length + i
        hidden_B1D = jax.lax.dynamic_slice_in_dim(read.hidden_BLD, at, 1, axis=1)
        logits_BV = read.replace(hidden_BLD=hidden_B1D).logits()[:, 0]
        if temperature == 0.0:
            next_B = jnp.argmax(logits_BV, axis=-1)
        else:
            step_key = jax.random.fold_in(key, i)
            next_B = jax.random.categorical(step_key, logits_BV / temperature)
        return tokens_BL.at[:, at + 1].set(next_B.astype(jnp.int32))

    tokens_BL = jax.lax.fori_loop(0, num_tokens, add, tokens_BL)
    return tokens_BL[:, prompt_length + 1 :]


def _beginnings(
    dataset: PreparedDataset, *, prompt_length: int, most: int
) -> dict[str, np.ndarray]:
    """Returns the first tokens of the first long document of each domain."""
    found: dict[str, np.ndarray] = {}
    for number in range(min(len(dataset), MOST_LOOKED_AT)):
        sequence = dataset.read(np.array([number]))
        for begin in np.flatnonzero(sequence.positions[0] == 0):
            segment = sequence.segments[0, begin]
            tokens = sequence.tokens[0][sequence.segments[0] == segment]
            name = dataset.manifest.domains[sequence.domains[0, begin]]
            # What begins a row may be the middle of a document.
            if begin and segment and len(tokens) > prompt_length and name not in found:
                found[name] = tokens[:prompt_length]
        if len(found) >= most:
            break
    return dict(list(found.items())[:most])


def _until_end(tokens: Sequence[int], eos_id: int) -> list[int]:
    listed = [int(token) for token in tokens]
    return listed[: listed.index(eos_id)] if eos_id in listed else listed

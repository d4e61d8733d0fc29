"""Decoding on one device: that the cache changes nothing, and tokens per second."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.checkup.device_rates import rates_in
from salt_jax.checkup.sizes import VOCABULARY, sizes_of
from salt_jax.checkup.values import Line, Setting, at_least, measured, undone
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation.generator import Generator
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.transformer import Params, Transformer, init_params


def decode(setting: Setting) -> Iterator[Line]:
    """Yields how many tokens agree with a model without a cache, and the speeds."""
    sizes = sizes_of(setting)
    mesh = Partitioning(mesh=MeshShape(data=1).build(jax.devices()[:1]))
    model = Transformer(dataclasses.replace(sizes.student, remat="none"), mesh)
    dtype = jnp.dtype(sizes.student.dtype)
    params = mesh.materialize(
        lambda key: jax.tree.map(lambda x: x.astype(dtype), init_params(model, key)),
        jax.random.key(0),
    )
    vocabulary = Vocabulary.open(VOCABULARY)
    length = sizes.prompt_tokens + sizes.new_tokens
    generator = Generator(model, vocabulary, length, batch_size=max(sizes.decode_rows))
    draw = np.random.default_rng(0)
    known = min(vocabulary.size, sizes.student.vocab_size)
    prompts = draw.integers(
        3, known, (max(sizes.decode_rows), sizes.prompt_tokens)
    ).tolist()
    held = sum(x.nbytes for x in jax.tree.leaves(params))
    yield measured("parameters", held / 1e9, "GB")
    floor = rates_in(setting)["memory_bytes_per_second"] / held
    for rows in sizes.decode_rows:
        written = generator(params, prompts[:rows], max_new_tokens=sizes.new_tokens)
        began = time.perf_counter()
        generator(params, prompts[:rows], max_new_tokens=sizes.new_tokens)
        seconds = time.perf_counter() - began
        count = sum(map(len, written))
        if not count:
            yield undone(f"{rows} rows", "the random model ended every text at once")
            continue
        yield measured(
            f"{rows} rows: tokens per second",
            count / seconds,
            f"of {count} tokens",
            f"prompts of {sizes.prompt_tokens} read; reading all parameters for each "
            f"token, at the measured rate of memory, gives {rows * floor:,.0f}",
        )
    yield _agreement(model, params, vocabulary, prompts, written)


def _agreement(
    model: Transformer,
    params: Params,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    written: list[list[int]],
) -> Line:
    """Compares the tokens with the likeliest ones of a whole forward pass."""
    rows = [
        (prompt, new) for prompt, new in zip(prompts, written, strict=False) if new
    ][:8]
    longest = max(len(new) for _, new in rows)
    kept = [(p, new) for p, new in rows if len(new) == longest]
    begin = vocabulary.begin_id
    tokens_BL = np.array([[begin, *prompt, *new] for prompt, new in kept], np.int32)
    ones_BL = np.ones_like(tokens_BL)
    fields: dict[str, Any] = dict(
        tokens_BL=tokens_BL,
        targets_BL=tokens_BL,
        weights_BL=ones_BL.astype(np.float32),
        segments_BL=ones_BL,
        positions_BL=np.cumsum(ones_BL, axis=1) - 1,
    )

    @jax.jit
    def likeliest(params: Params, batch: Batch) -> jax.Array:
        unembedding: Any = model.apply(params, batch)
        logits_BLV = unembedding.logits()
        return jnp.argmax(logits_BLV[..., : vocabulary.size], axis=-1)

    found_BL = np.asarray(likeliest(params, Batch(**fields)))[:, -longest - 1 : -1]
    same = float(np.mean(found_BL == tokens_BL[:, -longest:]))
    return at_least(
        "tokens that the model without a cache takes too",
        same,
        0.9,
        "in bfloat16 near ties of a random model may fall otherwise",
    )

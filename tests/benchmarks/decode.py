"""Prints how fast tokens are written beside transformers, with the cache of each.

Run from the root of the repository: python tests/benchmarks/decode.py [--rounds=7]

Models have random parameters, in float32, and are the same ones on both sides: an
export of ours, and what `export --format=hf` makes of it. Prompts are random tokens of
one length, and the likeliest token is taken. There is one device. Both read the prompts
and write the same number of tokens in turn, round by round; a ratio is the median of
the ratios of the rounds.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import numpy as np
import torch
import transformers
from etils import epath

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation.generator import Generator
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import write_export
from salt_jax.storage.loaded import LoadedModel

VOCABULARY = "embedded:tokenizer/spm_4k.model"
PROMPT_TOKENS, MAX_LENGTH = 63, 512


def shape(num_layers: int, embed_dim: int, head_dim: int) -> TransformerConfig:
    """Returns a model of the demo's kind."""
    return TransformerConfig(
        vocab_size=4096,
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=embed_dim // head_dim,
        num_kv_heads=embed_dim // head_dim // 2,
        head_dim=head_dim,
        mlp_dim=4 * embed_dim,
        dtype="float32",
        remat="none",
    )


# The first is the demo's student.
MODELS = {
    "4 layers, 128 wide": shape(4, 128, 32),
    "8 layers, 256 wide": shape(8, 256, 64),
    "8 layers, 512 wide": shape(8, 512, 64),
}

Write = Callable[[np.ndarray], np.ndarray]


def both(config: TransformerConfig, folder: epath.Path, num_tokens: int) -> list[Write]:
    """Returns how each side goes on with prompts int [B, L]: we, and transformers."""
    mesh = MeshShape().build(jax.devices()[:1])
    model = Transformer(config, Partitioning(mesh=mesh))
    params = model.partitioning.materialize(
        lambda key: init_params(model, key), jax.random.key(0)
    )
    write_export(
        folder / "export",
        params,
        model=config,
        vocabulary=Vocabulary.open(VOCABULARY).path,
        provenance={"step": 0},
        dtype="float32",
        seq_len=MAX_LENGTH,
    )
    export = Export.open(folder / "export")
    export_to_hugging_face(export, folder / "hf", dtype="float32")
    loaded = LoadedModel.open(export.path, devices=jax.devices()[:1])
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf")
    begin_id = loaded.vocabulary.begin_id
    generator = Generator(loaded.model, loaded.vocabulary, loaded.max_length)

    def ours(prompts_BL: np.ndarray) -> np.ndarray:
        written = generator(
            loaded.params, prompts_BL.tolist(), max_new_tokens=num_tokens
        )
        return np.array(written)

    def theirs(prompts_BL: np.ndarray) -> np.ndarray:
        begun = np.pad(prompts_BL, ((0, 0), (1, 0)), constant_values=begin_id)
        ids = torch.from_numpy(begun)
        written = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
        )
        return written[:, begun.shape[1] :].numpy()

    return [ours, theirs]


def measure(
    works: list[Write], prompts_BL: np.ndarray, rounds: int
) -> tuple[np.ndarray, float]:
    """Returns the seconds of each work in every round, and how many tokens agree."""
    written = [work(prompts_BL) for work in works]
    seconds = np.empty((len(works), rounds))
    for number in range(rounds):
        for i in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            works[i](prompts_BL)
            seconds[i, number] = time.perf_counter() - begin
    return seconds, float(np.mean(written[0] == written[1]))


def main() -> None:
    """Prints a row for each model and number of prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    flags = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(
        f"{flags.tokens} tokens after {PROMPT_TOKENS}; tokens/s of all rows, with the "
        "prompts read"
    )
    print(f"{'':<20}{'rows':>5}{'ours':>8}{'theirs':>8}{'ratio':>7}{'agree':>7}")
    draw = np.random.default_rng(0)
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            works = both(config, epath.Path(folder), flags.tokens)
        for rows in 1, 8:
            prompts_BL = draw.integers(3, config.vocab_size, (rows, PROMPT_TOKENS))
            seconds, alike = measure(works, prompts_BL, flags.rounds)
            ours, theirs = rows * flags.tokens / np.median(seconds, axis=1)
            ratio = np.median(seconds[1] / seconds[0])
            print(
                f"{name:<20}{rows:>5}{ours:>8,.0f}{theirs:>8,.0f}{ratio:>7.2f}"
                f"{alike:>7.1%}"
            )
    print("ratio: ours to theirs in tokens/s (aim: at least 1)")


if __name__ == "__main__":
    main()

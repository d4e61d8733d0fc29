"""What is computed: on an accelerator, and, to try the check, on a CPU."""

from __future__ import annotations

import dataclasses

from salt_jax.checkup.values import Setting
from salt_jax.model.config import TransformerConfig

VOCABULARY = "embedded:tokenizer/spm_4k.model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The models and the counts of the checks."""

    # Timed steps, on random tokens. Their vocabulary is large, as the paper's is.
    student: TransformerConfig
    teacher: TransformerConfig
    rows_per_device: int
    seq_len: int
    chunk_tokens: int
    rounds: int
    steps_per_block: int
    # The chunked loss beside the dense one: tokens that fit as dense logits too.
    loss_tokens: int
    # Loss against its formula.
    oracle_width: int
    oracle_vocab: int
    # Attention against its formula.
    heads: int
    head_dim: int
    length: int
    window: int
    # Decoding.
    prompt_tokens: int
    new_tokens: int
    decode_rows: tuple[int, ...]
    # Device rates.
    matrix: int  # The width of square matrices.
    copy_bytes: int
    # A real run: gin/tiny_salt_ds.gin with these, on the embedded text.
    run_model: dict[str, str]
    run_layers: tuple[int, int]  # Of student and teacher.
    run_rows_per_device: int
    run_seq_len: int
    run_steps: tuple[int, int]  # The ends of both stages.
    run_save_every: int


FULL = Sizes(
    # 314 million parameters: with AdamW 4.7 GiB, which every chip of today holds.
    student=TransformerConfig(
        vocab_size=131_072,
        num_layers=12,
        embed_dim=1024,
        num_heads=8,
        num_kv_heads=1,
        head_dim=128,
        mlp_dim=4096,
    ),
    teacher=TransformerConfig(
        vocab_size=131_072,
        num_layers=6,
        embed_dim=1024,
        num_heads=8,
        num_kv_heads=1,
        head_dim=128,
        mlp_dim=4096,
    ),
    rows_per_device=8,
    seq_len=1280,
    chunk_tokens=2048,
    rounds=6,
    steps_per_block=3,
    loss_tokens=2048,
    oracle_width=512,
    oracle_vocab=4096,
    heads=8,
    head_dim=128,
    length=1280,
    window=300,
    prompt_tokens=63,
    new_tokens=128,
    decode_rows=(1, 8, 64),
    matrix=8192,
    copy_bytes=2**30,
    run_model={
        "embed_dim": "512",
        "num_heads": "4",
        "num_kv_heads": "1",
        "head_dim": "128",
        "mlp_dim": "2048",
        "dtype": "'bfloat16'",
        "remat": "'full'",
        "scan_layers": "True",
    },
    run_layers=(8, 4),
    run_rows_per_device=16,
    run_seq_len=512,
    run_steps=(48, 64),
    run_save_every=16,
)

_TINY = TransformerConfig(
    vocab_size=512,
    num_layers=2,
    embed_dim=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    mlp_dim=64,
    dtype="float32",
    remat="none",
)
SMALL = Sizes(
    student=_TINY,
    teacher=dataclasses.replace(_TINY, num_layers=1),
    rows_per_device=2,
    seq_len=64,
    chunk_tokens=64,
    rounds=3,
    steps_per_block=2,
    loss_tokens=256,
    oracle_width=32,
    oracle_vocab=512,
    heads=4,
    head_dim=16,
    length=64,
    window=9,
    prompt_tokens=15,
    new_tokens=16,
    decode_rows=(1, 2),
    matrix=256,
    copy_bytes=2**20,
    run_model={"embed_dim": "32", "num_heads": "2", "head_dim": "16", "mlp_dim": "64"},
    run_layers=(2, 1),
    run_rows_per_device=2,
    run_seq_len=64,
    run_steps=(24, 32),
    run_save_every=8,
)


def sizes_of(setting: Setting) -> Sizes:
    """Returns the sizes for what is here."""
    return SMALL if setting.small else FULL

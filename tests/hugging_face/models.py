"""Tiny models that transformers makes, as people find them in folders."""

import numpy as np
import tokenizers
import torch
import transformers

from salt_jax.batch import Batch
from salt_jax.storage.loaded import LoadedModel

VOCAB_SIZE = 272
LENGTH = 24
SPECIAL_TOKENS = ("<begin>", "<end>", "<padding>")
_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Head sizes and scales differ from what follows from the other numbers.
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5}
CONFIGS = {
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": False}),
    "llama_tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "llama_3": (
        transformers.LlamaConfig,
        {"rope_theta": 500_000.0, "rope_scaling": _LLAMA3, "head_dim": 16},
    ),
    "qwen_2": (transformers.Qwen2Config, {"rope_theta": 1e6}),
    "qwen_2_tied": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen_2_windows": (
        transformers.Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "qwen_3": (transformers.Qwen3Config, {"head_dim": 16, "rms_norm_eps": 1e-5}),
    "gemma": (transformers.GemmaConfig, {"head_dim": 16}),
    # Caps as low as its numbers, which would else never come near them.
    "gemma_2": (
        transformers.Gemma2Config,
        {**_GEMMA, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0},
    ),
    "gemma_2_untied": (
        transformers.Gemma2Config,
        {**_GEMMA, "tie_word_embeddings": False},
    ),
    "gemma_3": (
        transformers.Gemma3TextConfig,
        {
            **_GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "linear",
                    "factor": 8.0,
                    "rope_theta": 1e6,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}


def write_model(folder, name, dtype=torch.float32, **fields):
    """Writes a random model of `CONFIGS` and its tokenizer to `folder`."""
    kind, own = CONFIGS[name]
    torch.manual_seed(0)
    config = kind(**{**_SHAPE, **own, **fields})
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Norms and biases begin as ones or zeros, which hide what is left out.
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in parameter_name:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder, size=VOCAB_SIZE):
    # As Qwen's, which is what transformers takes that of every Qwen for.
    tokenizer = tokenizers.ByteLevelBPETokenizer(unicode_normalizer="nfc")
    tokenizer.train_from_iterator(
        ["a small model helps a large one"] * 5, size, special_tokens=[*SPECIAL_TOKENS]
    )
    begin, end, padding = SPECIAL_TOKENS
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
    ).save_pretrained(folder)


def read_tokens():
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, LENGTH), np.int32)


def their_logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    with torch.no_grad():
        return model(torch.tensor(read_tokens())).logits.numpy()


def our_logits(export, **options):
    loaded = LoadedModel.open(export, dtype="float32", **options)
    tokens = read_tokens()
    positions_BL = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
    ones_BL = np.ones_like(tokens)
    batch = Batch(tokens, tokens, ones_BL.astype(np.float32), ones_BL, positions_BL)
    return np.asarray(loaded.model.apply(loaded.params, batch).logits())


def assert_close(ours_BLV, theirs_BLV):
    """Checks that logits are equal to 1e-4 of themselves, or of how they spread."""
    atol = 1e-4 * np.std(theirs_BLV)
    np.testing.assert_allclose(ours_BLV, theirs_BLV, rtol=1e-4, atol=atol)

"""Small tokenizers of the kinds that models on Hugging Face have."""

import json

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

SPECIAL = ["<|begin|>", "<|end|>", "<|pad|>"]
TEXTS = ["the cat sat on the mat", "a dog ate the log", "lo  and\nbehold: 42!"] * 9
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def byte_level():
    """As Llama 3 and GPT-2 have it: every byte is a letter, and nothing is changed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, 320, pre_tokenizers.ByteLevel.alphabet())


def composing():
    """As Qwen has it: the same, of text whose accents are on their letters."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def spaces_written():
    """As Gemma has it: a space is a letter, and bytes are for all that is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
    )
    return _trained(tokenizer, 320, [])


def space_first():
    """As Llama 2 has it: the same, and a text begins with a space that is taken off."""
    tokenizer = spaces_written()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), tokenizer.normalizer]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def write(path, tokenizer, **roles):
    """Writes a tokenizer as the vocabulary of an export."""
    known = {"begin_id": 0, "eos_id": 1, "pad_id": 2}
    record = json.loads(tokenizer.to_str()) | {"salt_jax": known | roles}
    path.write_text(json.dumps(record))
    return path


def _trained(tokenizer, size, alphabet):
    pieces = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    is_byte_level = bool(alphabet)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL if is_byte_level else pieces,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if is_byte_level:
        return tokenizer
    # Pieces of bytes are none that a text can name, but special they are not either.
    record = json.loads(tokenizer.to_str())
    record["added_tokens"] = record["added_tokens"][: len(SPECIAL) + 1]
    return Tokenizer.from_str(json.dumps(record))

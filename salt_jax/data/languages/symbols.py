"""Vocabularies of single letters, for languages that are made and not collected."""

from __future__ import annotations

import string

from salt_jax.data.tokenizer_json import as_json, special_token
from salt_jax.data.tokenizers_vocabulary import ROLES, ROLES_KEY

BEGIN = "<s>"  # Token 0: it begins, ends and pads.
_LETTERS = string.ascii_letters + string.digits
MOST_SYMBOLS = 4096


def symbols_vocabulary(size: int) -> bytes:
    """Returns a vocabulary file of `size` tokens: `BEGIN` and single letters.

    "embedded:tokenizer/symbols_32.json" is this file for 32 tokens.

    Raises:
      ValueError: `size` is not between 2 and `MOST_SYMBOLS`.
    """
    if not 2 <= size <= MOST_SYMBOLS:
        raise ValueError(f"A language has 2 to {MOST_SYMBOLS:,} tokens, got {size}.")
    letters = [
        _LETTERS[i] if i < len(_LETTERS) else chr(0x100 + i) for i in range(size - 1)
    ]
    vocabulary = {name: token for token, name in enumerate([BEGIN, *letters])}
    return as_json(
        {
            "version": "1.0",
            "added_tokens": [special_token(0, BEGIN)],
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # Byte-pair encoding without merges: a token for each letter.
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
            ROLES_KEY: dict.fromkeys(ROLES, 0),
        }
    )

"""A tokenizer.json: what is refused of it, and the tokenizer that it makes.

A file can make a letter stand for terabytes of text, or a token for terabytes of
table. The library would take all memory, so such files are refused before it sees them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import tokenizers
from etils import epath

MOST_TOKENS = 1 << 24
MOST_GROWTH = 64  # Letters that a letter may become before it is tokenized, or after.


def tokenizer_of(record: Mapping[str, Any], path: epath.Path) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a tokenizer.json, without truncation and padding.

    Raises:
      ValueError: the library cannot read it, or it is beyond a limit.
    """
    try:
        _check(record)
        # A file may set a maximum length, as those of sentence encoders do.
        fields = {**record, "truncation": None, "padding": None}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fields))
        known = tokenizer.get_vocab(with_added_tokens=True)
        if not known or max(known.values()) >= MOST_TOKENS:
            raise ValueError(f"it has tokens up to {max(known.values(), default=None)}")
    except BaseException as error:
        raise refusal(
            f"{path} is not a tokenizer.json that tokenizers {tokenizers.__version__} "
            "reads",
            error,
        ) from error
    # The names of special tokens in a text are text, and must not end it.
    tokenizer.encode_special_tokens = True
    return tokenizer


def refusal(said: str, error: BaseException) -> BaseException:
    """Returns a ValueError for an error of the library, and any other error as it is.

    The library raises plain Exceptions, and where it panics a BaseException.
    """
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return ValueError(f"{said} ({' '.join(str(error).split())[:200]}).")
    return error


def with_special(record: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """Returns a tokenizer.json whose added tokens `ids` are special.

    A token that begins, ends or pads is no text, whatever the file says of it.
    """
    added = record.get("added_tokens")
    if not isinstance(added, list):
        return dict(record)
    return {
        **record,
        "added_tokens": [
            {**x, "special": True}
            if isinstance(x, dict) and x.get("id") in [*ids]
            else x
            for x in added
        ],
    }


def special_token(token: int, name: str) -> dict[str, Any]:
    """Returns the entry of a control piece in "added_tokens"."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, **flags, "special": True}


def as_json(record: Mapping[str, Any]) -> bytes:
    """Returns `record` as the bytes of a JSON file."""
    return (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()


def _check(record: Mapping[str, Any]) -> None:
    """Raises ValueError if texts grow too much, or their tokens depend on chance."""
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1.0
        for each in _steps(record.get(step)):
            growth *= _growth(each)
        if growth > MOST_GROWTH:
            raise ValueError(
                f"its {step} makes a text {growth:,.0f} times as long, and at most "
                f"{MOST_GROWTH} are allowed"
            )
    model = record.get("model")
    if isinstance(model, Mapping) and model.get("dropout"):
        raise ValueError(
            f"its dropout is {model['dropout']!r}, and a text would have other tokens "
            "each time; set it to null"
        )
    for token in _ids(record):
        if token >= MOST_TOKENS:
            raise ValueError(f"it has the token {token:,}, of at most {MOST_TOKENS:,}")


def _ids(record: Mapping[str, Any]) -> Iterator[int]:
    added = record.get("added_tokens")
    for each in added if isinstance(added, list) else []:
        if isinstance(each, Mapping) and type(each.get("id")) is int:
            yield each["id"]
    model = record.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocab, Mapping):
        yield from (x for x in vocab.values() if type(x) is int)


def _steps(step: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the steps of a normalizer, a pre-tokenizer or a decoder."""
    pending = [step]
    while pending:
        each = pending.pop()
        if not isinstance(each, Mapping):
            continue
        yield each
        for inner in ("normalizers", "pretokenizers", "decoders"):
            if isinstance(each.get(inner), list):
                pending += each[inner]


def _growth(step: Mapping[str, Any]) -> float:
    """Returns how many times as long a step may make a text, roughly."""
    if step.get("type") == "Precompiled":
        return charsmap_growth(step.get("precompiled_charsmap"))
    if step.get("type") == "Prepend":
        return 1.0 + len(str(step.get("prepend"))) / 64  # Once a text.
    if step.get("type") != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), str(step.get("content"))
    given = pattern if isinstance(pattern, Mapping) else {}
    if given.get("String"):
        return max(1.0, len(content) / len(str(given["String"])))
    try:
        is_empty = re.fullmatch(str(given.get("Regex")), "") is not None
    except (re.error, RecursionError, OverflowError):
        is_empty = True
    return max(1.0, len(content)) + is_empty


def charsmap_growth(blob: str | bytes | None) -> float:
    """Returns how many times as long a table of characters may make a text.

    Four bytes say how long its trie is, and the texts that stand for characters follow.
    """
    try:
        table = base64.b64decode(blob) if isinstance(blob, str) else blob or b""
    except (binascii.Error, ValueError) as error:
        raise ValueError("its table of characters is not in base64") from error
    texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max(1.0, max(map(len, texts)) / 3)

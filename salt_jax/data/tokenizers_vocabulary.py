"""Vocabularies that are tokenizer.json files of the tokenizers library."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from salt_jax.data.sentencepiece_vocabulary import PROBES, SPACE
from salt_jax.data.tokenizer_json import (
    as_json,
    refusal,
    special_token,
    tokenizer_of,
    with_special,
)
from salt_jax.files.records import decode_object

# An additional key in the file, which names the begin, end and pad tokens.
ROLES_KEY = "salt_jax"
ROLES = ("begin_id", "eos_id", "pad_id")
# Optional: a list of further tokens that end generated text, besides the eos token.
OTHER_ENDS = "other_eos_ids"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizersCodec:
    """Encodes and decodes text with the tokenizers library.

    No special tokens are added. The name of a special token in a text is encoded like
    any other text.
    """

    tokenizer: tokenizers.Tokenizer
    size: int
    begin_id: int
    eos_id: int
    pad_id: int
    other_eos_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, contents: bytes, path: epath.Path) -> TokenizersCodec:
        """Returns the codec of a file; `path` is for messages.

        Raises:
          ValueError: the library cannot read it, or it does not name the begin, end
            and pad tokens.
        """
        record = _record(contents, path)
        roles = record.pop(ROLES_KEY, None)
        others = roles.pop(OTHER_ENDS, []) if isinstance(roles, dict) else []
        if not isinstance(roles, dict) or sorted(roles) != sorted(ROLES):
            raise ValueError(
                f"{path} does not say which tokens begin, end and pad: its "
                f"{ROLES_KEY!r} should have {', '.join(ROLES)}. Make it with "
                "`python -m salt_jax.main import`."
            )
        if not isinstance(others, list):
            raise ValueError(
                f"{path} says that {OTHER_ENDS} is {others!r}, which is no list of "
                "tokens. Import it again."
            )
        said = [*roles.items(), *((OTHER_ENDS, token) for token in others)]
        ids = frozenset(token for _, token in said if type(token) is int)
        tokenizer = tokenizer_of(with_special(record, ids), path)
        tokens = frozenset(tokenizer.get_vocab(with_added_tokens=True).values())
        for name, token in said:
            if type(token) is not int or token not in tokens:
                raise ValueError(
                    f"{path} says that {name} is {token!r}, which is none of its "
                    f"{len(tokens):,} tokens. Import it again."
                )
        return cls(
            tokenizer=tokenizer,
            size=1 + max(tokens),
            other_eos_ids=tuple(others),
            **roles,
        )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end generated text, `eos_id` first."""
        return (self.eos_id, *self.other_eos_ids)

    def encode_array(self, text: str) -> np.ndarray:
        """Returns the tokens of `text` as int32 [N]."""
        ids = self._encode(text)
        if not self._controls.keys().isdisjoint(ids):
            # The name of a control piece, which some models also have as a word. In
            # two parts it is none. `(?=` also finds names that overlap.
            names = "|".join(map(re.escape, self._controls.values()))
            cuts = [x.start() + 1 for x in re.finditer(f"(?={names})", text)]
            parts = itertools.pairwise([0, *cuts, len(text)])
            ids = [x for begin, end in parts for x in self._encode(text[begin:end])]
        return np.array(ids, np.int32)

    def _encode(self, text: str) -> list[int]:
        try:
            # The fast variant does not compute character offsets.
            found = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except BaseException as error:
            raise refusal(
                f"The tokenizer cannot encode {text[:40]!r}, of {len(text):,} letters",
                error,
            ) from error
        return found[0].ids

    @functools.cached_property
    def _controls(self) -> dict[int, str]:
        """The special tokens that no text is encoded as, and their names."""
        added = self.tokenizer.get_added_tokens_decoder()
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        return {
            token: x.content
            for token, x in added.items()
            if x.special and x.content != unknown
        }

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; special tokens decode to nothing."""
        roles = (self.begin_id, *self.end_ids, self.pad_id)
        return self.tokenizer.decode([x for x in ids if x not in roles])

    @functools.cached_property
    def is_lossless(self) -> bool:
        """Whether concatenated tokens of any texts decode to the concatenated texts.

        Probes the tokenizer: it is not lossless if it normalizes, adds a space at the
        beginning, or represents a space by a letter that texts may contain.
        """
        texts = [*PROBES, SPACE]
        tokens = [token for x in texts for token in self.encode_array(x).tolist()]
        return self.decode(tokens) == "".join(texts)

    def find(self, name: str) -> int | None:
        """Returns the token id of a piece, or None if there is no such piece."""
        return self.tokenizer.token_to_id(name)

    def with_control_pieces(self, contents: bytes, names: Sequence[str]) -> bytes:
        """Returns the file `contents` with special tokens appended."""
        record = json.loads(contents)
        more = [
            special_token(self.size + index, name) for index, name in enumerate(names)
        ]
        record["added_tokens"] = [*(record.get("added_tokens") or []), *more]
        return as_json(record)

    def byte_lengths(self) -> np.ndarray:
        """Returns the number of UTF-8 bytes of each token, int32 [size].

        Raises:
          ValueError: the tokenizer has an unsupported decoder.
        """
        length_of = _Lengths.of(self.tokenizer)
        lengths = np.zeros(self.size, np.int32)
        for piece, token in self.tokenizer.get_vocab(with_added_tokens=False).items():
            lengths[token] = length_of(piece)
        for token, added in self.tokenizer.get_added_tokens_decoder().items():
            lengths[token] = 0 if added.special else length_of(added.content)
        lengths[[self.begin_id, *self.end_ids, self.pad_id]] = 0
        return lengths


def _record(contents: bytes, path: epath.Path) -> dict[str, Any]:
    record = decode_object(contents, where=str(path), remedy="give a tokenizer.json")
    if "model" not in record:
        raise ValueError(f"{path} is not a tokenizer.json: it has no 'model'.")
    return record


@dataclasses.dataclass(frozen=True)
class _Lengths:
    """The byte lengths of pieces, given the steps of a decoder."""

    alphabet: frozenset[str] | None  # Letters that decode to one byte each.
    has_bytes: bool  # Whether <0x00> to <0xFF> decode to one byte each.
    replaced: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> _Lengths:
        decoder = json.loads(tokenizer.to_str())["decoder"]
        steps = list(_steps(decoder))
        kinds = {step["type"] for step in steps}
        unknown = sorted(kinds - _KNOWN_STEPS)
        if unknown:
            raise ValueError(
                "How many bytes tokens stand for cannot be told of a decoder with "
                f"{', '.join(unknown)}; it can of {', '.join(sorted(_KNOWN_STEPS))}."
            )
        letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        return cls(
            alphabet=frozenset(letters) if "ByteLevel" in kinds else None,
            has_bytes="ByteFallback" in kinds,
            replaced=tuple(
                _replaced(x) for x in steps if x["type"] in ("Replace", "Metaspace")
            ),
        )

    def __call__(self, piece: str) -> int:
        if self.alphabet is not None and self.alphabet.issuperset(piece):
            return len(piece)
        if self.has_bytes and len(piece) == 6 and piece.startswith("<0x"):
            return 1
        for before, after in self.replaced:
            piece = piece.replace(before, after)
        return len(piece.encode())


# Strip removes a space at the beginning of a whole text, so no token's length changes.
_KNOWN_STEPS = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yields the steps of a decoder, in order."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _steps(part)
    else:
        yield decoder


def _replaced(step: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what a decoder step replaces, and the replacement."""
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise ValueError(
            "How many bytes tokens stand for cannot be told of a decoder that replaces "
            f"{step['pattern']}."
        )
    return step["pattern"]["String"], step["content"]

"""The tokens that begin, end and pad, from the files beside a tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from absl import logging
from etils import epath

from salt_jax.data.tokenizers_vocabulary import OTHER_ENDS
from salt_jax.files.records import read_object

# Files with names of special tokens, and files with their ids. The first one decides.
_NAMED_IN = ("tokenizer_config.json", "special_tokens_map.json")
_NUMBERED_IN = ("generation_config.json", "config.json")


def read_roles(folder: epath.Path, known: Mapping[str, int]) -> dict[str, Any]:
    """Returns the ids of the tokens that begin, end and pad, as `folder` says.

    Raises:
      ValueError: no file says how texts end, or one names a token that is not `known`.
    """
    eos_id = _token(folder, known, "eos")
    if eos_id is None:
        raise ValueError(
            f"{folder} does not say which token ends a text: write an 'eos_token' into "
            f"its {_NAMED_IN[0]}."
        )
    begin_id = _token(folder, known, "bos")
    if begin_id is None:
        logging.info(
            "%s has no bos token: texts begin with its eos token, %d.", folder, eos_id
        )
        begin_id = eos_id
    # Padding is never read, so any token can stand in for a missing one.
    pad_id = _token(folder, known, "pad", is_needed=False)
    roles: dict[str, Any] = {
        "begin_id": begin_id,
        "eos_id": eos_id,
        "pad_id": begin_id if pad_id is None else pad_id,
    }
    others = other_ends(folder, eos_id, known.values())
    return roles | ({OTHER_ENDS: others} if others else {})


def other_ends(folder: epath.Path, eos_id: int, known: Collection[int]) -> list[int]:
    """Returns the `known` tokens besides `eos_id` that end a generated text.

    The first file with ids decides, as in transformers. Unknown ids are dropped,
    because a model never generates them.
    """
    for file in _NUMBERED_IN:
        said = read_json(folder / file, is_needed=False).get("eos_token_id")
        if said is not None:
            listed = said if isinstance(said, list) else [said]
            ends = dict.fromkeys(x for x in listed if type(x) is int)
            return [x for x in ends if x != eos_id and x in known]
    return []


def known_ids(roles: Mapping[str, Any]) -> set[int]:
    """Returns all tokens that have a role."""
    others = roles.get(OTHER_ENDS, [])
    return {token for name, token in roles.items() if name != OTHER_ENDS} | {*others}


def read_json(path: epath.Path, *, is_needed: bool = True) -> dict[str, Any]:
    """Returns the JSON object in a file; {} if the file is missing and not needed.

    Raises:
      ValueError: the file holds no JSON object.
    """
    if not is_needed and not path.exists():
        return {}
    return read_object(path, remedy="fetch it again")


def _token(
    folder: epath.Path, known: Mapping[str, int], role: str, *, is_needed: bool = True
) -> int | None:
    """Returns the token of a role; None if no file names one.

    Raises:
      ValueError: a file names a token that the tokenizer lacks, and `is_needed`.
    """
    for path, key, said in _said(folder, role):
        token = known.get(said) if isinstance(said, str) else said
        if type(token) is int and token in known.values():
            return token
        if is_needed:
            raise ValueError(
                f"{path} has {key}={said!r}, which tokenizer.json lacks: they are of "
                "different models."
            )
    return None


def _said(folder: epath.Path, role: str) -> Iterator[tuple[epath.Path, str, Any]]:
    """Yields the path, key and value of a role in each file, the deciding one first."""
    for file, key in [
        *((file, f"{role}_token") for file in _NAMED_IN),
        *((file, f"{role}_token_id") for file in _NUMBERED_IN),
    ]:
        said = read_json(folder / file, is_needed=False).get(key)
        if isinstance(said, dict):
            said = said.get("content")
        if isinstance(said, list):  # Of several ends, the first ends training texts.
            said = said[0] if said else None
        if said is not None:
            yield folder / file, key, said

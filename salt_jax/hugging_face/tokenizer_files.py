"""Vocabularies as the tokenizer files of a Hugging Face folder, and the other way.

A tokenizer.json says how text becomes tokens; which of them begin and end a text is
said beside it, in up to four files. The `vocabulary.json` of an export is a
tokenizer.json that says both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from absl import logging
from etils import epath

from salt_jax.data.sentencepiece_vocabulary import PROBES, SPACE, SentencePieceCodec
from salt_jax.data.tokenizers_vocabulary import ROLES_KEY, as_json, tokenizer_of
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face import sentencepiece_bpe

_TOKENIZER = "tokenizer.json"
_SENTENCEPIECE = "tokenizer.model"
# Where special tokens are named, and where they are numbers; what comes first counts.
_NAMED_IN = ("tokenizer_config.json", "special_tokens_map.json")
_NUMBERED_IN = ("generation_config.json", "config.json")


def write_tokenizer(
    vocabulary: Vocabulary, folder: epath.PathLike, *, model_type: str | None = None
) -> None:
    """Writes the files with which transformers makes the tokens of `vocabulary`.

    `AutoTokenizer` then encodes a text to `begin_id` and the very tokens of
    `vocabulary.encode`; with `add_special_tokens=False`, to these alone. What a text
    says is text: the names of control pieces in it are no control pieces. That is said
    in the tokenizer_config.json, and so not known to who reads tokenizer.json alone. A
    text of over 65,536 letters without a space may have other tokens at the place where
    `encode` cuts it.

    Args:
      vocabulary: Of a model.
      folder: Made if it is not there; files in it are overwritten.
      model_type: What the config.json of the folder says; None: it is not known.

    Raises:
      ValueError: a tokenizer.json cannot have the tokens of this vocabulary, or is not
        read as it is beside such a model.
    """
    folder = epath.Path(folder)
    tokenizer = _tokenizer(vocabulary)
    if model_type == "qwen2" and not _is_of_qwen(tokenizer):
        raise ValueError(
            f"{vocabulary.path} cannot be the tokenizer of a {model_type} model: "
            "transformers reads all of theirs as Qwen's, whatever their files say. "
            "Export a model of another architecture."
        )
    ids = {
        "bos_token": vocabulary.begin_id,
        "eos_token": vocabulary.eos_id,
        "pad_token": vocabulary.pad_id,
    }
    names = {role: str(tokenizer.id_to_token(token)) for role, token in ids.items()}
    record = json.loads(tokenizer.to_str())
    record["post_processor"] = _begin_with(names["bos_token"], vocabulary.begin_id)
    settings = {
        # The class that takes a tokenizer.json as it is, whatever model it is of.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        # The tokenizer.json does so; this is for who asks whether it does.
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _TOKENIZER).write_bytes(as_json(record))
    (folder / "tokenizer_config.json").write_bytes(as_json(settings))
    (folder / "special_tokens_map.json").write_bytes(as_json(names))


def read_tokenizer(folder: epath.PathLike) -> tuple[bytes, str]:
    """Returns the vocabulary file for an export of a Hugging Face folder, and its name.

    It is a tokenizer.json that says which tokens begin, end and pad, or a SentencePiece
    model where there is no tokenizer.json. With a tokenizer that begins a text with
    nothing, as Qwen's, a model reads the end of the document before.

    Raises:
      FileNotFoundError: there is no tokenizer in `folder`.
      ValueError: it cannot be read, or does not say how texts end.
    """
    folder = epath.Path(folder)
    path = folder / _TOKENIZER
    if path.exists():
        record = _read_json(path)
        known = tokenizer_of(record, path).get_vocab(with_added_tokens=True)
        roles = _roles(folder, known)
        return as_json(record | {ROLES_KEY: roles}), "vocabulary.json"
    path = folder / _SENTENCEPIECE
    if path.exists():
        contents = path.read_bytes()
        SentencePieceCodec.of(contents, path)  # Refuses what is none.
        return contents, "vocabulary.model"
    raise FileNotFoundError(
        f"No {_TOKENIZER} and no {_SENTENCEPIECE} in {folder}: save its tokenizer with "
        "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`."
    )


def _tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Returns what makes the tokens of `vocabulary`, without any added to them."""
    codec = vocabulary.codec
    if not isinstance(codec, SentencePieceCodec):
        record = _read_json(vocabulary.path)
        del record[ROLES_KEY]
        return tokenizer_of(record, vocabulary.path)
    try:
        record = sentencepiece_bpe.tokenizer_json(codec)
        tokenizer = tokenizer_of(record, vocabulary.path)
        _check_tokens(codec, tokenizer)
    except ValueError as error:
        raise ValueError(
            f"{vocabulary.path} cannot become a {_TOKENIZER}: {error}"
        ) from error
    return tokenizer


def _check_tokens(codec: SentencePieceCodec, tokenizer: tokenizers.Tokenizer) -> None:
    """Refuses a tokenizer with other tokens for the text of any piece, or its name."""
    names = [codec.processor.id_to_piece(token) for token in range(codec.size)]
    texts = [name.replace(SPACE, " ") for name in names]
    for text in [*texts, *PROBES, SPACE, "".join(names), "".join(texts[::-1])]:
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if found != codec.encode_array(text).tolist():
            raise ValueError(f"It would have other tokens for {text[:40]!r}.")


def _is_of_qwen(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether it does to a text what Qwen's do: compose, and take bytes."""
    record = json.loads(tokenizer.to_str())
    kinds = [(record[step] or {}).get("type") for step in ("normalizer", "decoder")]
    return kinds == ["NFC", "ByteLevel"]


def _begin_with(name: str, token: int) -> dict[str, Any]:
    """Returns the step that puts a token before every text."""
    begin = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def _roles(folder: epath.Path, known: Mapping[str, int]) -> dict[str, int]:
    """Returns which of the `known` tokens begin, end and pad, by what a folder says."""
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
    # Padding is never read, so without a token of its own any will do.
    pad_id = _token(folder, known, "pad", is_needed=False)
    return {
        "begin_id": begin_id,
        "eos_id": eos_id,
        "pad_id": begin_id if pad_id is None else pad_id,
    }


def _token(
    folder: epath.Path, known: Mapping[str, int], role: str, *, is_needed: bool = True
) -> int | None:
    """Returns the token of a role that one of the files gives; None if none does.

    Raises:
      ValueError: a file gives one that the tokenizer does not have, and it is needed.
    """
    for file, key in [
        *((file, f"{role}_token") for file in _NAMED_IN),
        *((file, f"{role}_token_id") for file in _NUMBERED_IN),
    ]:
        said = _read_json(folder / file, is_needed=False).get(key)
        if isinstance(said, dict):
            said = said.get("content")
        if isinstance(said, list):  # Of several ends, the first is the text's.
            said = said[0] if said else None
        if said is None:
            continue
        token = known.get(said) if isinstance(said, str) else said
        if token in known.values():
            return token
        if is_needed:
            raise ValueError(
                f"{folder / file} says {key}={said!r}, which its {_TOKENIZER} does not "
                "have: they are of different models."
            )
    return None


def _read_json(path: epath.Path, *, is_needed: bool = True) -> dict[str, Any]:
    if not is_needed and not path.exists():
        return {}
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no JSON object: fetch it again.")
    return record

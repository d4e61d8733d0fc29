"""Conversion between vocabularies and the tokenizer files of a Hugging Face folder.

A tokenizer.json defines how text becomes tokens. Up to four other files say which
tokens begin and end a text. The `vocabulary.json` of an export is a tokenizer.json that
says both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict

import tokenizers
from absl import logging
from etils import epath

from salt_jax.data.sentencepiece_vocabulary import PROBES, SPACE, SentencePieceCodec
from salt_jax.data.tokenizer_json import as_json, tokenizer_of, with_special
from salt_jax.data.tokenizers_vocabulary import ROLES_KEY
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.records import typed
from salt_jax.hugging_face import sentencepiece_bpe
from salt_jax.hugging_face.roles import known_ids, other_ends, read_json, read_roles

_TOKENIZER = "tokenizer.json"
_SENTENCEPIECE = "tokenizer.model"


class _AddedToken(TypedDict):
    id: int
    content: str
    special: bool


def tokenizer_files(
    vocabulary: Vocabulary, *, model_type: str | None = None
) -> dict[str, bytes]:
    """Returns the files by name with which transformers encodes like `vocabulary`.

    `AutoTokenizer` then encodes a text as `begin_id` followed by the tokens of
    `vocabulary.encode`, or as these alone with `add_special_tokens=False`. Names of
    control pieces in a text are encoded as text; tokenizer_config.json says so, so a
    program that reads only tokenizer.json does not know it. A run of more than 65,536
    characters without a space may be encoded differently where `encode` splits it.

    Args:
      vocabulary: The vocabulary to convert.
      model_type: The model_type in the folder's config.json; None: unknown.

    Raises:
      ValueError: a tokenizer.json cannot express the vocabulary, or transformers
        ignores tokenizer.json for this model_type.
    """
    tokenizer = _tokenizer(vocabulary)
    if model_type == "qwen2" and not _is_of_qwen(tokenizer):
        raise ValueError(
            f"{vocabulary.path} cannot be the tokenizer of a {model_type} model: "
            "transformers always applies Qwen's normalization and bytes to these. "
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
        # The class that reads tokenizer.json as it is, for any model.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        # tokenizer.json already does so; this only reports it.
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    return {
        _TOKENIZER: as_json(record),
        "tokenizer_config.json": as_json(settings),
        "special_tokens_map.json": as_json(names),
    }


def read_tokenizer(
    folder: epath.PathLike, *, vocab_size: int | None = None
) -> tuple[bytes, str]:
    """Returns the contents and name of the vocabulary file for a Hugging Face folder.

    The file is the tokenizer.json with the tokens that begin, end and pad added, or the
    SentencePiece model if there is no tokenizer.json. If the tokenizer has no token
    that begins a text (Qwen's has none), the end-of-text token begins it.

    Args:
      folder: The folder with the tokenizer files.
      vocab_size: The model's number of tokens; None: unknown. Special tokens beyond it
        are dropped: text models often ship those of images, which they cannot read.

    Raises:
      FileNotFoundError: there is no tokenizer in `folder`.
      ValueError: the tokenizer cannot be read, does not say how texts end, or has more
        tokens than the model.
    """
    folder = epath.Path(folder)
    path = folder / _TOKENIZER
    if path.exists():
        record = read_json(path)
        if vocab_size is not None:
            record = _without_specials_from(vocab_size, record, path)
        known = tokenizer_of(record, path).get_vocab(with_added_tokens=True)
        _check_size(1 + max(known.values()), vocab_size, path)
        roles = read_roles(folder, known)
        record = with_special(record, known_ids(roles))
        return as_json(record | {ROLES_KEY: roles}), "vocabulary.json"
    path = folder / _SENTENCEPIECE
    if path.exists():
        contents = path.read_bytes()
        codec = SentencePieceCodec.of(contents, path)  # Raises for any other file.
        _check_size(codec.size, vocab_size, path)
        others = other_ends(folder, codec.eos_id, range(codec.size))
        if others:
            logging.info("%s has one end token; %s are ignored.", path, others)
        return contents, "vocabulary.model"
    raise FileNotFoundError(
        f"No {_TOKENIZER} and no {_SENTENCEPIECE} in {folder}: save the tokenizer with "
        "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`."
    )


def _without_specials_from(
    vocab_size: int, record: Mapping[str, Any], path: epath.Path
) -> dict[str, Any]:
    """Returns a tokenizer.json without special tokens whose id is >= `vocab_size`."""
    checked = {"where": str(path), "remedy": "fetch it again"}
    added = record.get("added_tokens") or []
    typed(added, list[_AddedToken], **checked)
    model = typed(record.get("model"), dict[str, Any], **checked)
    beyond = [x for x in added if x["special"] and x["id"] >= vocab_size]
    if not beyond:
        return dict(record)
    names = {x["content"] for x in beyond}
    logging.info(
        "Dropped %s of %s: the model has %d tokens.", sorted(names), path, vocab_size
    )
    kept: dict[str, Any] = {"added_tokens": [x for x in added if x not in beyond]}
    vocab = model.get("vocab")
    if isinstance(vocab, dict):  # Some files list special tokens here too.
        vocab = {name: token for name, token in vocab.items() if name not in names}
        kept["model"] = model | {"vocab": vocab}
    return {**record, **kept}


def _check_size(size: int, vocab_size: int | None, path: epath.Path) -> None:
    if vocab_size is not None and size > vocab_size:
        raise ValueError(
            f"{path} has {size:,} tokens, and config.json has vocab_size="
            f"{vocab_size:,}: they are of different models. Fetch matching files."
        )


def _tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Returns a tokenizer with the tokens of `vocabulary` and no added begin token."""
    codec = vocabulary.codec
    if not isinstance(codec, SentencePieceCodec):
        record = read_json(vocabulary.path)
        record = with_special(record, known_ids(record.pop(ROLES_KEY)))
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
    """Raises ValueError if any piece's text or name is encoded differently."""
    names = [codec.processor.id_to_piece(token) for token in range(codec.size)]
    texts = [name.replace(SPACE, " ") for name in names]
    for text in [*texts, *PROBES, SPACE, "".join(names), "".join(texts[::-1])]:
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if found != codec.encode_array(text).tolist():
            raise ValueError(f"It would encode {text[:40]!r} differently.")


def _is_of_qwen(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether it normalizes to NFC and encodes bytes, as Qwen's tokenizers."""
    record = json.loads(tokenizer.to_str())
    kinds = [(record[step] or {}).get("type") for step in ("normalizer", "decoder")]
    return kinds == ["NFC", "ByteLevel"]


def _begin_with(name: str, token: int) -> dict[str, Any]:
    """Returns the post-processor that puts a token in front of every text."""
    begin = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }

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
from salt_jax.hugging_face.roles import other_ends, read_json, read_roles

_TOKENIZER = "tokenizer.json"
_SENTENCEPIECE = "tokenizer.model"


def write_tokenizer(
    vocabulary: Vocabulary, folder: epath.PathLike, *, model_type: str | None = None
) -> None:
    """Writes the files with which transformers makes the tokens of `vocabulary`.

    The folder is made if it is not there, and files in it are overwritten; the rest is
    as for `tokenizer_files`.
    """
    contents = tokenizer_files(vocabulary, model_type=model_type)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def tokenizer_files(
    vocabulary: Vocabulary, *, model_type: str | None = None
) -> dict[str, bytes]:
    """Returns, by name, the files that make transformers' tokens of `vocabulary`.

    `AutoTokenizer` then encodes a text to `begin_id` and the very tokens of
    `vocabulary.encode`; with `add_special_tokens=False`, to these alone. What a text
    says is text: the names of control pieces in it are no control pieces. That is said
    in the tokenizer_config.json, and so not known to who reads tokenizer.json alone. A
    text of over 65,536 letters without a space may have other tokens at the place where
    `encode` cuts it.

    Args:
      vocabulary: Of a model.
      model_type: What the config.json of the folder says; None: it is not known.

    Raises:
      ValueError: a tokenizer.json cannot have the tokens of this vocabulary, or is not
        read as it is beside such a model.
    """
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
    return {
        _TOKENIZER: as_json(record),
        "tokenizer_config.json": as_json(settings),
        "special_tokens_map.json": as_json(names),
    }


def read_tokenizer(
    folder: epath.PathLike, *, vocab_size: int | None = None
) -> tuple[bytes, str]:
    """Returns the vocabulary file for an export of a Hugging Face folder, and its name.

    It is a tokenizer.json that says which tokens begin, end and pad, or a SentencePiece
    model where there is no tokenizer.json. With a tokenizer that begins a text with
    nothing, as Qwen's, a model reads the end of the document before.

    Args:
      folder: With the files.
      vocab_size: How many tokens the model has; None: it is not known. Special tokens
        beyond these are left out: text models come with those of images, which they
        cannot read.

    Raises:
      FileNotFoundError: there is no tokenizer in `folder`.
      ValueError: it cannot be read, or does not say how texts end, or has more tokens
        than the model.
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
        return as_json(record | {ROLES_KEY: roles}), "vocabulary.json"
    path = folder / _SENTENCEPIECE
    if path.exists():
        contents = path.read_bytes()
        codec = SentencePieceCodec.of(contents, path)  # Refuses what is none.
        _check_size(codec.size, vocab_size, path)
        others = other_ends(folder, codec.eos_id, range(codec.size))
        if others:
            logging.info("%s ends texts with one token, and not %s.", path, others)
        return contents, "vocabulary.model"
    raise FileNotFoundError(
        f"No {_TOKENIZER} and no {_SENTENCEPIECE} in {folder}: save its tokenizer with "
        "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`."
    )


def _without_specials_from(
    vocab_size: int, record: Mapping[str, Any], path: epath.Path
) -> dict[str, Any]:
    """Returns a tokenizer.json without special tokens from `vocab_size` on."""
    added = record.get("added_tokens") or []
    beyond = [x for x in added if x["special"] and x["id"] >= vocab_size]
    if not beyond:
        return dict(record)
    names = {x["content"] for x in beyond}
    logging.info(
        "Left %s out of %s: the model has %d tokens.", sorted(names), path, vocab_size
    )
    kept = {"added_tokens": [x for x in added if x not in beyond]}
    vocab = record["model"].get("vocab")
    if isinstance(vocab, dict):  # Some files list them here too.
        vocab = {name: token for name, token in vocab.items() if name not in names}
        kept["model"] = record["model"] | {"vocab": vocab}
    return {**record, **kept}


def _check_size(size: int, vocab_size: int | None, path: epath.Path) -> None:
    if vocab_size is not None and size > vocab_size:
        raise ValueError(
            f"{path} has {size:,} tokens, and config.json beside it has "
            f"vocab_size={vocab_size:,}: they are of different models. Fetch the files "
            "of one."
        )


def _tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Returns what makes the tokens of `vocabulary`, without any added to them."""
    codec = vocabulary.codec
    if not isinstance(codec, SentencePieceCodec):
        record = read_json(vocabulary.path)
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

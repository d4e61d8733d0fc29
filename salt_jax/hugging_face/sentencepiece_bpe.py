"""Conversion of a SentencePiece BPE model to a tokenizer.json with the same tokens.

SentencePiece repeatedly merges the two neighbors whose concatenation is the piece with
the best score; ties go to the leftmost. The tokenizers library merges the neighbors
that come first in a list of pairs; ties go to the leftmost. So the list has all pieces
in the order of their scores, each with every way to cut it into two pieces. The order
of the cuts of one piece does not matter: its parts were merged by better scores, so in
the same way everywhere, and only one of its cuts ever occurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from salt_jax.data.sentencepiece_vocabulary import SPACE, SentencePieceCodec
from salt_jax.data.tokenizer_json import special_token

_FORMAT: Any = sentencepiece_model_pb2  # Its classes are made when it is imported.
_Piece = _FORMAT.ModelProto.SentencePiece


def tokenizer_json(codec: SentencePieceCodec) -> dict[str, Any]:
    """Returns the contents of a tokenizer.json with the tokens of `codec`.

    Pieces are written with spaces, not with U+2581. So U+2581 in a text becomes three
    byte tokens, as in `Vocabulary.encode`, and no normalizer is needed.

    Raises:
      ValueError: tokenizer.json cannot express the model exactly.
    """
    model = _FORMAT.ModelProto.FromString(codec.processor.serialized_model_proto())
    obstacle = _obstacle(model, codec)
    if obstacle is not None:
        raise ValueError(
            f"{obstacle}. A tokenizer.json can be written only for a lossless "
            "byte-pair-encoding model with byte fallback."
        )
    kinds = [
        (index, _text(piece), piece.type) for index, piece in enumerate(model.pieces)
    ]
    special = (_Piece.CONTROL, _Piece.UNKNOWN)
    added = [
        special_token(index, text) for index, text, kind in kinds if kind in special
    ]
    added += [
        special_token(index, text) | {"special": False}
        for index, text, kind in kinds
        if kind == _Piece.USER_DEFINED
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": codec.processor.id_to_piece(codec.processor.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: index for index, text, _ in kinds},
            "merges": list(_merges(model.pieces)),
        },
    }


def _obstacle(model: Any, codec: SentencePieceCodec) -> str | None:
    """Returns why a tokenizer.json would give other tokens; None if it would not."""
    kind = model.trainer_spec.model_type
    if kind != _FORMAT.TrainerSpec.BPE:
        name = _FORMAT.TrainerSpec.ModelType.Name(kind).lower()
        return f"It is a SentencePiece model of type {name}"
    if not codec.is_lossless or _normalizes(model):
        return "It is a SentencePiece model that normalizes texts or lacks byte pieces"
    texts = [_text(piece) for piece in model.pieces]
    if len(set(texts)) < len(texts):
        return "It is a SentencePiece model with pieces that differ only in U+2581"
    joined = [x for x in model.pieces if x.type == _Piece.NORMAL and len(x.piece) > 1]
    if len({piece.score for piece in joined}) < len(joined):
        return "It is a SentencePiece model with two pieces of equal score"
    letters = {text for text in texts if len(text) == 1}
    odd = {letter for piece in joined for letter in _text(piece)} - letters
    named = [x for x in model.pieces if x.type in (_Piece.CONTROL, _Piece.UNKNOWN)]
    if odd or any(len(piece.piece) == 1 for piece in named):
        return "It is a SentencePiece model that lacks a piece for a single character"
    if any(piece.type == _Piece.UNUSED for piece in model.pieces):
        return "It is a SentencePiece model with unused pieces"
    return None


def _normalizes(model: Any) -> bool:
    rules = (model.normalizer_spec, model.denormalizer_spec)
    return (
        any(spec.precompiled_charsmap for spec in rules)
        or model.normalizer_spec.add_dummy_prefix
        or model.normalizer_spec.remove_extra_whitespaces
        or not model.normalizer_spec.escape_whitespaces
    )


def _text(piece: Any) -> str:
    """Returns the text of a piece, or the name of a piece without a text."""
    has_text = piece.type in (_Piece.NORMAL, _Piece.USER_DEFINED)
    return piece.piece.replace(SPACE, " ") if has_text else piece.piece


def _merges(pieces: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yields the pairs to merge, in the order of merging.

    User-defined pieces and the names of special pieces are never merged.
    """
    normal = [piece for piece in pieces if piece.type == _Piece.NORMAL]
    known = {_text(piece) for piece in normal}
    for piece in sorted(normal, key=lambda piece: -piece.score):
        text = _text(piece)
        for cut in range(1, len(text)):
            if text[:cut] in known and text[cut:] in known:
                yield text[:cut], text[cut:]

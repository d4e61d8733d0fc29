"""An export: the parameters, shape and vocabulary of a model in one directory.

Teachers, scorers and initial parameters are loaded from exports. An export gets its
name once all of it is written:

    params/            The arrays, in the export's dtype.
    model.json         The fields of `TransformerConfig`.
    vocabulary.model   The SentencePiece model that the model was trained with, or
    vocabulary.json    its vocabulary of the tokenizers library.
    export.json        Format version, dtype, sequence length, fingerprints, provenance,
                       and the SHA-256 of the files beside it.
    README.md          The same for people.

An imported export also has the shape as gin text, `model.gin`, and the chat template of
its tokenizer, if there is one, `chat_template.jinja`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

from etils import epath

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.reading import check_sha256, is_plain_name, read_file
from salt_jax.files.records import read_record, typed
from salt_jax.files.writing import is_there
from salt_jax.model.config import TransformerConfig
from salt_jax.model.quantized import as_exported, hold
from salt_jax.storage.array_files import (
    CorruptArraysError,
    absolute,
    fingerprint,
    read_arrays,
)
from salt_jax.storage.finite import check_finite

CHAT_TEMPLATE = "chat_template.jinja"  # Of an imported model, and of its students.
FORMAT_VERSION = 3
_REMEDY = "export again"
HOW_TO_EXPORT = "make one with `python -m salt_jax.main export --gin_file=...`"


class _About(TypedDict):
    dtype: str
    seq_len: int
    fingerprint: str
    vocabulary_file: str
    vocabulary_fingerprint: str
    provenance: dict[str, Any]
    files: dict[str, str]  # The SHA-256 of each file beside this one.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """An export on disk, without its arrays."""

    path: epath.Path
    model: TransformerConfig
    dtype: str  # The dtype of the arrays on disk.
    seq_len: int  # The sequence length of training, in tokens.
    fingerprint: str  # The fingerprint of the arrays.
    vocabulary_file: str  # The name of the vocabulary file.
    vocabulary_fingerprint: str  # SHA-256 of the vocabulary file.
    provenance: dict[str, Any]

    @classmethod
    def open(cls, path: epath.PathLike) -> Export:
        """Reads and checks the export at `path`, except for its arrays.

        Raises:
          FileNotFoundError: there is no export at `path`.
          ValueError: the format version is unknown, or a file is damaged.
        """
        path = absolute(path)
        if not is_there(path):
            raise FileNotFoundError(f"No export at {path}; {HOW_TO_EXPORT}.")
        about = _read_about(path)
        export = cls(
            path=path,
            model=_read_model(path / "model.json"),
            dtype=about["dtype"],
            seq_len=about["seq_len"],
            fingerprint=about["fingerprint"],
            vocabulary_file=about["vocabulary_file"],
            vocabulary_fingerprint=about["vocabulary_fingerprint"],
            provenance=about["provenance"],
        )
        for name, digest in about["files"].items():
            about_file = path / "export.json"
            check_sha256(path / name, digest, recorded_in=about_file, remedy=_REMEDY)
        return export

    @classmethod
    def open_for(
        cls, path: epath.PathLike, model: TransformerConfig, vocabulary: Vocabulary
    ) -> Export:
        """Opens the export at `path` and checks its model and vocabulary.

        Raises:
          FileNotFoundError: there is no export at `path`.
          ValueError: as for `open`, or the export has another model or vocabulary.
        """
        export = cls.open(path)
        export._check_model(model)
        export.check_vocabulary(vocabulary)
        return export

    @property
    def chat_template(self) -> str | None:
        """The template that makes a text of a conversation, if the model has one."""
        path = self.path / CHAT_TEMPLATE
        return read_file(path).decode() if path.exists() else None

    @property
    def vocabulary_path(self) -> epath.Path:
        """The vocabulary file that the model was trained with."""
        return self.path / self.vocabulary_file

    def load(self, like: Any) -> Any:
        """Returns the parameters, read onto the shardings of `like`.

        Args:
          like: The parameters as shapes, dtypes and shardings. Arrays of another dtype
            are cast on their devices.

        Raises:
          ValueError: `like` has other shapes, the arrays are damaged, or a number is
            not finite.
        """
        try:
            params = read_arrays(self.path / "params", as_exported(like, self.dtype))
        except CorruptArraysError as error:
            raise ValueError(
                f"The export at {self.path} is damaged: {error} Export again."
            ) from error
        self.check_fingerprint(fingerprint(params))
        check_finite(params, f"The export at {self.path}")
        return hold(params, like)

    def max_length(self, asked: int | None) -> int:
        """Returns the largest number of tokens of prompt and continuation together.

        Args:
          asked: The requested length; None: the length of the training sequences.

        Raises:
          ValueError: the length is not positive.
        """
        length = self.seq_len if asked is None else asked
        if length < 1:
            raise ValueError(f"max_length={length} is not positive.")
        return length

    def check_fingerprint(self, found: str) -> None:
        """Checks the fingerprint of the arrays that were read.

        Raises:
          ValueError: `found` differs from the fingerprint of the arrays as written.
        """
        if found != self.fingerprint:
            raise ValueError(
                f"The export at {self.path} is damaged: its arrays have fingerprint "
                f"{found[:12]}, not {self.fingerprint[:12]} as written. Export again."
            )

    def check_vocabulary(self, wanted: Vocabulary) -> None:
        """Checks that the model was trained with the vocabulary `wanted`.

        Raises:
          ValueError: it was trained with another.
        """
        if wanted.fingerprint != self.vocabulary_fingerprint:
            raise ValueError(
                f"The export at {self.path} was trained with the vocabulary "
                f"{self.vocabulary_path} ({self.vocabulary_fingerprint[:12]}), and "
                f"this experiment reads {wanted.path} ({wanted.fingerprint[:12]}). "
                "Use one vocabulary file for both."
            )

    def _check_model(self, wanted: TransformerConfig) -> None:
        fields = wanted.differences(self.model)
        if fields:
            listed = ", ".join(
                f"{name}={getattr(self.model, name)!r}, not {getattr(wanted, name)!r}"
                for name in fields
            )
            raise ValueError(
                f"The export at {self.path} does not match the model of this "
                f"experiment: {listed}."
            )


def _read_about(path: epath.Path) -> _About:
    file = path / "export.json"
    found = _read_file(file)
    if (version := found.get("format_version")) != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {str(version)[:40]}; this salt_jax reads "
            f"version {FORMAT_VERSION}. Update salt_jax, or export again."
        )
    about = typed(found, _About, where=str(file), remedy=_REMEDY)
    if about["vocabulary_file"] not in about["files"]:
        raise ValueError(f"{file} has no digest of its vocabulary: {_REMEDY}.")
    outside = [name for name in about["files"] if not is_plain_name(name)]
    if outside:
        raise ValueError(f"{file} names {outside[0]!r} in another folder: {_REMEDY}.")
    return about


def _read_file(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path.parent} is no export: it has no {path.name}.")
    return read_record(path, dict[str, Any], remedy=_REMEDY)


def _read_model(path: epath.Path) -> TransformerConfig:
    found = _read_file(path)
    known = {field.name for field in dataclasses.fields(TransformerConfig)}
    if unknown := sorted(set(found) - known):
        raise ValueError(
            f"{path} was written by another version, with {unknown[0]!r}: {_REMEDY}."
        )
    return typed(found, TransformerConfig, where=str(path), remedy=_REMEDY)

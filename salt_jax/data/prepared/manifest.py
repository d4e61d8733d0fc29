"""What a prepared split is: the `manifest.json` beside its shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from typing import Any

from etils import epath

from salt_jax.data.corpora.document import Fields

FORMAT_VERSION = 2
NAME = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainCounts:
    """How much of a split is from one domain."""

    documents: int
    tokens: int  # The end of each document included.
    sequences: int  # That hold any of its tokens.
    text_bytes: int  # In UTF-8.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of consecutive sequences."""

    name: str
    count: int
    num_bytes: int  # Of the file.
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the bytes of a prepared split."""

    split: str
    seq_len: int
    seed: int
    sequences_per_shard: int
    vocabulary_fingerprint: str
    corpus_fingerprint: str
    domains: tuple[str, ...] | None = None  # Kept; None: all.
    fields: Fields = Fields()
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Settings:
        """Returns the settings of which `record` is the JSON."""
        domains = record["domains"]
        parts = {
            "domains": None if domains is None else tuple(domains),
            "fields": Fields(**record["fields"]),
        }
        return cls(**(record | parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A prepared split: what it was made from, and what came out."""

    settings: Settings
    vocabulary_size: int
    pad_id: int
    eos_id: int
    begin_id: int  # What a model reads before the first token of a document.
    count: int  # Sequences; their ids are 0 to count - 1.
    num_tokens: int
    num_bad_lines: int  # Of the corpus, left out.
    domains: tuple[str, ...]
    domain_counts: tuple[DomainCounts, ...]
    shards: tuple[Shard, ...]

    @property
    def seq_len(self) -> int:
        """The tokens of a sequence, padding included."""
        return self.settings.seq_len

    @property
    def split(self) -> str:
        """The part of the corpus that was prepared."""
        return self.settings.split

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the manifest: of what was put in, and of every shard."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Returns the manifest as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: epath.Path) -> Manifest:
        """Reads the manifest of the prepared split at `path`.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is damaged, of another version, or lists a shard twice.
        """
        file = path / NAME
        if not file.exists():
            raise FileNotFoundError(
                f"No prepared data at {path}: {NAME} is missing. Run prepare first."
            )
        try:
            record = json.loads(file.read_text())
            version = record["settings"]["format_version"]
            manifest = cls._from_record(record) if version == FORMAT_VERSION else None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged: delete {path} and prepare it again."
            ) from error
        if manifest is None:
            raise ValueError(
                f"{path} was prepared in format {version}, and this version reads "
                f"format {FORMAT_VERSION}: delete it and prepare it again."
            )
        manifest._refuse_duplicates(file)
        return manifest

    def _refuse_duplicates(self, file: epath.Path) -> None:
        names = [shard.name for shard in self.shards]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(
                f"{file} has duplicated ids: it lists {twice[0]} more than once. "
                f"Delete {file.parent} and prepare it again."
            )

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Manifest:
        parts = {
            "settings": Settings.from_record(record["settings"]),
            "domains": tuple(record["domains"]),
            "domain_counts": tuple(DomainCounts(**x) for x in record["domain_counts"]),
            "shards": tuple(Shard(**x) for x in record["shards"]),
        }
        return cls(**(record | parts))

"""The `manifest.json` of a prepared split, which stands beside its shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from typing import Any

from etils import epath

from salt_jax.data.corpora.document import Fields
from salt_jax.files.records import read_record, typed, write_record

FORMAT_VERSION = 3
NAME = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainCounts:
    """The size of one domain in a split."""

    documents: int
    tokens: int  # With the end token of each document.
    sequences: int  # Sequences with any token of the domain.
    text_bytes: int  # In UTF-8.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of consecutive sequences."""

    name: str
    count: int
    num_bytes: int  # The size of the file.
    sha256: str
    first_sha256: str  # Of its first record, which is compared when it is first read.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines the bytes of a prepared split."""

    split: str
    seq_len: int
    seed: int
    sequences_per_shard: int
    vocabulary_fingerprint: str
    corpus_fingerprint: str
    domains: tuple[str, ...] | None = None  # The domains that were kept; None: all.
    fields: Fields = Fields()
    format_version: int = FORMAT_VERSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The settings, counts and shards of a prepared split."""

    settings: Settings
    vocabulary_size: int
    pad_id: int
    eos_id: int
    begin_id: int  # What a model reads before the first token of a document.
    count: int  # Sequences; their ids are 0 to count - 1.
    num_tokens: int
    num_bad_lines: int  # Malformed lines of the corpus, which were skipped.
    domains: tuple[str, ...]
    domain_counts: tuple[DomainCounts, ...]
    shards: tuple[Shard, ...]

    @property
    def seq_len(self) -> int:
        """The length of a sequence in tokens, with padding."""
        return self.settings.seq_len

    @property
    def split(self) -> str:
        """The name of the split."""
        return self.settings.split

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the manifest, which covers the settings and every shard."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, path: epath.PathLike) -> None:
        """Writes the manifest into the folder `path`."""
        write_record(epath.Path(path) / NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: epath.Path) -> Manifest:
        """Reads the manifest of the prepared split at `path`.

        Raises:
          FileNotFoundError: there is no manifest.
          ValueError: it is damaged, of another version, or lists a shard twice.
        """
        file = path / NAME
        if not file.exists():
            raise FileNotFoundError(
                f"No prepared data at {path}: {NAME} is missing. Run prepare first."
            )
        remedy = f"delete {path} and prepare it again"
        record = read_record(file, dict[str, Any], remedy=remedy)
        settings = record.get("settings")
        version = settings.get("format_version") if isinstance(settings, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{file} is of format {str(version)[:40]}, and this version reads "
                f"format {FORMAT_VERSION}: delete it and prepare it again."
            )
        manifest = typed(record, cls, where=str(file), remedy=remedy)
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

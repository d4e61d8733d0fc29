"""Counts of documents, tokens and bytes, for one part or for all parts of a split."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import TypedDict

from salt_jax.data.prepared import sequences
from salt_jax.data.preparing.tokenization import TokenizedBlock


class CountsRecord(TypedDict):
    """`Counts` as JSON."""

    documents: dict[str, int]
    tokens: dict[str, int]
    text_bytes: dict[str, int]
    other_domains: list[str]
    num_records: int
    num_bad: int
    first_bad: str


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Running counts. Domains are in the order of their first document."""

    documents: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    tokens: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    text_bytes: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    other_domains: set[str] = dataclasses.field(default_factory=set)  # Dropped.
    num_records: int = 0  # Documents, kept or dropped, and malformed records.
    num_bad: int = 0
    first_bad: str = ""  # The place and the problem of the first malformed record.

    def add_text(self, text: TokenizedBlock) -> None:
        """Adds the documents of a block.

        Raises:
          ValueError: there are more domains than the record format can number.
        """
        kept = zip(text.domains, text.lengths, text.num_bytes, strict=True)
        for domain, num_tokens, num_bytes in kept:
            self.documents[domain] += 1
            self.tokens[domain] += int(num_tokens)
            self.text_bytes[domain] += int(num_bytes)
        self.other_domains |= text.other_domains
        self.num_records += text.num_records
        self.num_bad += len(text.bad_records)
        self.first_bad = self.first_bad or next(iter(text.bad_records), "")
        self._check_domains()

    def __add__(self, other: Counts) -> Counts:
        total = Counts(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            text_bytes=self.text_bytes + other.text_bytes,
            other_domains=self.other_domains | other.other_domains,
            num_records=self.num_records + other.num_records,
            num_bad=self.num_bad + other.num_bad,
            first_bad=self.first_bad or other.first_bad,
        )
        total._check_domains()
        return total

    def to_record(self) -> CountsRecord:
        """Returns the counts as a value that JSON can represent."""
        return CountsRecord(
            documents=dict(self.documents),
            tokens=dict(self.tokens),
            text_bytes=dict(self.text_bytes),
            other_domains=sorted(self.other_domains),
            num_records=self.num_records,
            num_bad=self.num_bad,
            first_bad=self.first_bad,
        )

    @classmethod
    def from_record(cls, record: CountsRecord) -> Counts:
        """Returns the counts that `to_record` turned into `record`."""
        return cls(
            documents=collections.Counter(record["documents"]),
            tokens=collections.Counter(record["tokens"]),
            text_bytes=collections.Counter(record["text_bytes"]),
            other_domains=set(record["other_domains"]),
            num_records=record["num_records"],
            num_bad=record["num_bad"],
            first_bad=record["first_bad"],
        )

    @classmethod
    def of_parts(cls, parts: Iterable[Counts]) -> Counts:
        """Returns the sum of the counts of all parts, in order."""
        return sum(parts, start=cls())

    def _check_domains(self) -> None:
        num_domains = len(self.documents) + len(self.other_domains)
        if num_domains > sequences.MAX_DOMAINS:
            raise ValueError(
                f"There are {num_domains} domains, more than the maximum of "
                f"{sequences.MAX_DOMAINS}: check that fields.domain names a field with "
                "few values."
            )

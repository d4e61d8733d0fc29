"""The manifest of a split, from the counts of its parts and its written shards."""

from __future__ import annotations

from collections.abc import Sequence

from salt_jax.data.corpora.document import Part
from salt_jax.data.prepared.manifest import DomainCounts, Manifest, Settings
from salt_jax.data.preparing.counts import Counts
from salt_jax.data.preparing.shards import ShardLayout, WrittenShard
from salt_jax.data.vocabulary import Vocabulary


def check(
    counts: Counts, parts: Sequence[Part], settings: Settings, max_bad_share: float
) -> str:
    """Returns a line about malformed records, or "" if there are none.

    Raises:
      ValueError: too many records are malformed, there is no document, or a requested
        domain has none.
    """
    if not counts.num_records:
        names = ", ".join(part.name for part in parts[:3])
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        raise ValueError(f"No lines in {names}{more}: there is nothing to prepare.")
    found = (
        f"{counts.num_bad:,} of {counts.num_records:,} lines are no documents; the "
        f"first is {counts.first_bad}."
    )
    if counts.num_bad > max_bad_share * counts.num_records:
        raise ValueError(
            f"{found} At most max_bad_share={max_bad_share} of the lines may be: fix "
            "the corpus, or raise max_bad_share to skip such lines."
        )
    lacking = sorted(set(settings.domains or ()) - set(counts.documents))
    if lacking:
        there = sorted(set(counts.documents) | counts.other_domains)
        raise ValueError(
            f"{settings.split!r} has no document of the domain {lacking[0]!r}: its "
            f"domains are {', '.join(there)}."
        )
    if not counts.documents:
        raise ValueError(f"{found} There is nothing to prepare.")
    return f"{found} Skipping them." if counts.num_bad else ""


def layout_of(counts: Counts, settings: Settings) -> ShardLayout:
    """Returns how the tokens of a split divide into sequences and shards."""
    return ShardLayout(
        num_tokens=counts.tokens.total(),
        seq_len=settings.seq_len,
        sequences_per_shard=settings.sequences_per_shard,
    )


def assemble(
    counts: Counts,
    shards: Sequence[WrittenShard],
    settings: Settings,
    vocabulary: Vocabulary,
) -> Manifest:
    """Returns the manifest of a split whose `shards`, in order, are all written."""
    domains = tuple(sorted(counts.documents))
    return Manifest(
        settings=settings,
        vocabulary_size=vocabulary.size,
        pad_id=vocabulary.pad_id,
        eos_id=vocabulary.eos_id,
        begin_id=vocabulary.begin_id,
        count=sum(written.shard.count for written in shards),
        num_tokens=counts.tokens.total(),
        num_bad_lines=counts.num_bad,
        domains=domains,
        domain_counts=tuple(
            DomainCounts(
                documents=counts.documents[name],
                tokens=counts.tokens[name],
                sequences=sum(written.sequences[index] for written in shards),
                text_bytes=counts.text_bytes[name],
            )
            for index, name in enumerate(domains)
        ),
        shards=tuple(written.shard for written in shards),
    )

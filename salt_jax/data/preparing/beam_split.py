"""One split of a corpus, prepared by an Apache Beam pipeline.

    parts -> documents, by bucket -> pieces of shards, by shard -> shards -> manifest

A *bucket* holds the documents whose shuffle keys share their leading bits. A first pass
counts the tokens of every bucket. So each bucket knows the position of its tokens in
the split, and cuts them at the borders of shards. A worker never holds more than one
block of a part, one bucket or one shard.

Errors that `prepare` would raise are returned as values (`refusal`): Beam would retry a
worker that raised, and would bury its message in a report of the runner.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from etils import epath

from salt_jax.data.corpora.document import Part
from salt_jax.data.prepared.manifest import Settings
from salt_jax.data.preparing.counts import Counts
from salt_jax.data.preparing.cut import TokenRange, cut
from salt_jax.data.preparing.prepare_split import assemble, check, layout_of
from salt_jax.data.preparing.shards import ShardLayout, WrittenShard, write_shard
from salt_jax.data.preparing.tokenization import Tokenizer
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.writing import name_file, write_file

# 545 B tokens make buckets of 33 M. A small corpus leaves most buckets empty.
BUCKET_BITS = 14
# The position of a document in the split: its key, part, and number in the part. The
# bytes sort like the numbers.
_PLACE = struct.Struct(">QQQ")

# The place of a document, its domain and its tokens.
KeyedDocument = tuple[bytes, str, bytes]


@dataclasses.dataclass(frozen=True)
class PartResult:
    """The outcome of reading a part."""

    index: int
    part: Part
    counts: Counts
    refusal: str  # Why the part cannot be used; "" if it can.


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """The layout of a split, known once all parts are read."""

    counts: Counts
    layout: ShardLayout
    begins: np.ndarray  # int64 [buckets], the position of each bucket's first token.
    report: str  # A line about bad records; "" if there are none.
    refusal: str  # Why the split cannot be made; "" if it can.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitJob:
    """Settings for preparing a split. Sent to every worker, so it is small."""

    settings: Settings
    vocabulary: str  # A path that workers can read.
    dtype: np.dtype  # Of the stored tokens.
    max_bad_share: float
    folder: epath.Path  # The temporary folder.
    bucket_bits: int = BUCKET_BITS  # Of a shuffle key; they name its bucket.

    def read(
        self, numbered_part: tuple[int, Part]
    ) -> Iterator[tuple[int, KeyedDocument] | pvalue.TaggedOutput]:
        """Yields a part's documents, keyed by bucket, and then its `PartResult`."""
        index, part = numbered_part
        domains = self.settings.domains
        counts = Counts()
        refusal = ""
        tokenizer = Tokenizer(
            vocabulary=Vocabulary.open(self.vocabulary),
            seed=self.settings.seed,
            domains=None if domains is None else frozenset(domains),
        )
        try:
            for text in tokenizer.read(index, part):
                counts.add_text(text)
                tokens = np.split(text.tokens, np.cumsum(text.lengths)[:-1])
                for i, key in enumerate(text.keys.tolist()):
                    place = _PLACE.pack(key, index, text.numbers[i])
                    document = place, text.domains[i], tokens[i].tobytes()
                    yield key >> (64 - self.bucket_bits), document
        except ValueError as error:
            refusal = str(error)
        result = PartResult(index, part, counts, refusal)
        yield pvalue.TaggedOutput("results", result)

    def plan(
        self,
        _: None,
        results: Sequence[PartResult],
        bucket_bytes: Sequence[tuple[int, int]],
    ) -> SplitPlan:
        """Returns where everything goes; refuses what `prepare` would refuse."""
        results = sorted(results, key=lambda result: result.index)
        parts = [result.part for result in results]
        refusal = next((x.refusal for x in results if x.refusal), "")
        total, report = Counts(), ""
        try:
            total = Counts.of_parts(result.counts for result in results)
            report = check(total, parts, self.settings, self.max_bad_share)
        except ValueError as error:
            refusal = refusal or str(error)
        num_tokens = np.zeros(1 << self.bucket_bits, np.int64)
        for bucket, num_bytes in bucket_bytes:
            num_tokens[bucket] = num_bytes // self.dtype.itemsize
        begins = np.cumsum(num_tokens) - num_tokens
        layout = layout_of(total, self.settings)
        return SplitPlan(total, layout, begins, report, refusal)

    def pieces(
        self, bucket: tuple[int, Iterable[KeyedDocument]], plan: SplitPlan
    ) -> Iterator[tuple[int, TokenRange]]:
        """Yields the sorted documents of a bucket, split at the borders of shards."""
        if plan.refusal:
            return
        index, documents = bucket
        _, domains, tokens = zip(*sorted(documents), strict=True)
        index_of = {name: i for i, name in enumerate(sorted(plan.counts.documents))}
        lengths = np.array([len(x) // self.dtype.itemsize for x in tokens])
        begin = int(plan.begins[index])
        token_range = TokenRange(
            begin=begin,
            tokens=np.frombuffer(b"".join(tokens), self.dtype),
            starts=begin + np.cumsum(lengths) - lengths,
            domains=np.array([index_of[domain] for domain in domains], np.int64),
        )
        size = self.settings.sequences_per_shard * self.settings.seq_len
        for shard in range(begin // size, (token_range.end - 1) // size + 1):
            yield shard, token_range.part(*plan.layout.tokens(shard))

    def write(
        self, pieces: tuple[int, Iterable[TokenRange]], plan: SplitPlan
    ) -> tuple[int, WrittenShard]:
        """Writes a shard from all of its pieces."""
        index, token_ranges = pieces
        begin, end = plan.layout.tokens(index)
        seq_len = self.settings.seq_len
        # A runner may retry a shard, even while another worker still writes it.
        path = self.folder / uuid.uuid4().hex / plan.layout.name(index)
        path.parent.mkdir(parents=True)
        ordered = sorted(token_ranges, key=lambda token_range: token_range.begin)
        written = write_shard(
            path,
            cut(ordered, begin=begin, end=end, seq_len=seq_len),
            seq_len=seq_len,
            num_domains=len(plan.counts.documents),
        )
        name_file(path, self.folder / "split" / path.name)
        path.parent.rmdir()
        return index, written

    def finish(
        self, _: None, plan: SplitPlan, written: Sequence[tuple[int, WrittenShard]]
    ) -> None:
        """Writes the manifest, the report and the refusal."""
        for name in ("refusal", "report"):
            write_file(self.folder / name, getattr(plan, name))
        if plan.refusal:
            return
        shards = [shard for _, shard in sorted(written, key=lambda pair: pair[0])]
        vocabulary = Vocabulary.open(self.vocabulary)
        manifest = assemble(plan.counts, shards, self.settings, vocabulary)
        manifest.write(self.folder / "split")

    def build(self, pipeline: beam.Pipeline, parts: Sequence[Part]) -> None:
        """Adds all steps, from reading `parts` to the manifest, to a pipeline."""
        read = (
            pipeline
            | "Parts" >> beam.Create(list(enumerate(parts)))
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.FlatMap(self.read).with_outputs("results", main="documents")
        )
        bucket_bytes = (
            read.documents
            | "Lengths" >> beam.Map(lambda pair: (pair[0], len(pair[1][2])))
            | "Total" >> beam.CombinePerKey(sum)
        )
        plan = pvalue.AsSingleton(
            pipeline
            | "Once" >> beam.Create([None])
            | "Plan"
            >> beam.Map(
                self.plan, pvalue.AsList(read.results), pvalue.AsList(bucket_bytes)
            )
        )
        written = (
            read.documents
            | "By bucket" >> beam.GroupByKey()
            | "Cut" >> beam.FlatMap(self.pieces, plan)
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.Map(self.write, plan)
        )
        (
            pipeline
            | "Once more" >> beam.Create([None])
            | "Manifest" >> beam.Map(self.finish, plan, pvalue.AsList(written))
        )

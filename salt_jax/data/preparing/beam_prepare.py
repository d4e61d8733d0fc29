"""`prepare` as Apache Beam pipelines: the same bytes, written by many machines.

The first pipeline computes the fingerprints of all parts, which show whether a split is
already prepared. Each remaining split gets a pipeline of its own, which writes to a
temporary folder; the folder is renamed when it is complete.

Only this module and `beam_split` import Apache Beam, which is in the extra `beam`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence

import apache_beam as beam
from absl import logging
from apache_beam import pvalue
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import fn_api_runner
from etils import epath

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.document import Part
from salt_jax.data.prepared import sequences
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.preparing.beam_split import BUCKET_BITS, SplitJob
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.data.preparing.prepare_split import SplitWork
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import is_local, name_folder


@dataclasses.dataclass(frozen=True)
class _Fingerprints:
    found: Sequence[tuple[str, int, str, str]]  # As `_fingerprint` returns them.


def prepare_with_beam(
    preparation: Preparation,
    flags: Sequence[str] = (),
    progress: Callable[[str], None] = logging.info,
    *,
    bucket_bits: int = BUCKET_BITS,
) -> dict[str, PreparedDataset]:
    """Prepares every split that is not prepared yet, with the bytes of `prepare`.

    Args:
      preparation: The corpus, the vocabulary and the output. Workers must be able to
        read the first two and to write to the output. The `flags` set the number of
        workers; num_processes and num_threads are ignored.
      flags: Beam's options, such as "--runner=DataflowRunner". By default, the
        pipelines run in this process.
      progress: Called with lines that describe the progress.
      bucket_bits: The base-2 logarithm of the number of buckets of a split.

    Returns:
      The splits, by name.

    Raises:
      FileNotFoundError: the corpus, a split of it or the vocabulary is missing.
      ValueError: a flag is unknown; the output is in a bucket, or was prepared with
        other settings; the corpus is damaged or empty, has too many bad records or
        lacks a domain.
      Exception: whatever the runner raises when a worker fails, such as a full disk.
    """
    if not is_local(preparation.output):
        raise ValueError(
            f"{preparation.output} is in a bucket, and Beam's workers write shards to "
            "a local or mounted path: choose another output, or prepare without Beam."
        )
    options = _options(flags)
    vocabulary = Vocabulary.open(preparation.vocabulary)
    parts = {split: preparation.parts(split) for split in preparation.splits}
    output = epath.Path(preparation.output)
    output.mkdir(parents=True, exist_ok=True)
    progress(f"Taking the fingerprints of {sum(map(len, parts.values()))} parts.")
    fingerprints = _fingerprints(parts, output, options)
    works = [
        SplitWork(
            place=output / split,
            settings=preparation.settings(split, vocabulary, fingerprints[split]),
            vocabulary=vocabulary,
            parts=parts[split],
            part_fingerprints=(),  # Only for resuming, which Beam cannot do.
            max_bad_share=preparation.max_bad_share,
            workers=WorkerPool(1, 1),
            progress=progress,
        )
        for split in parts
    ]
    is_done = [work.is_done() for work in works]
    for work, done in zip(works, is_done, strict=True):
        if done:
            progress(f"{work.place} is complete.")
        else:
            _run_split(work, preparation.vocabulary, options, bucket_bits)
    return {work.settings.split: PreparedDataset.open(work.place) for work in works}


def _run_split(
    work: SplitWork,
    vocabulary: str,
    options: pipeline_options.PipelineOptions,
    bucket_bits: int,
) -> None:
    folder = work.place.parent / f".{work.place.name}.beam"
    if folder.exists():
        folder.rmtree()
    (folder / "split").mkdir(parents=True)
    job = SplitJob(
        settings=work.settings,
        vocabulary=vocabulary,
        dtype=sequences.token_dtype(work.vocabulary.size),
        max_bad_share=work.max_bad_share,
        folder=folder,
        bucket_bits=bucket_bits,
    )
    work.progress(f"Preparing {work.settings.split!r}: {len(work.parts)} parts.")
    _run(lambda pipeline: job.build(pipeline, work.parts), options)
    if refusal := (folder / "refusal").read_text():
        folder.rmtree()
        raise ValueError(refusal)
    if report := (folder / "report").read_text():
        work.progress(report)
    name_folder(folder / "split", work.place)
    folder.rmtree()
    manifest = PreparedDataset.open(work.place).manifest
    work.progress(
        f"{work.place} holds {manifest.num_tokens:,} tokens in {manifest.count:,} "
        f"sequences of {manifest.seq_len}, {len(manifest.shards)} shards."
    )


def _fingerprints(
    parts: dict[str, list[Part]],
    output: epath.Path,
    options: pipeline_options.PipelineOptions,
) -> dict[str, str]:
    """Returns the fingerprint of each split of the corpus."""
    # A pipeline can return results to this process only through a file.
    file = output / f".fingerprints-{uuid.uuid4().hex}.json"
    calls = [
        (split, index, part)
        for split in parts
        for index, part in enumerate(parts[split])
    ]

    def build(pipeline: beam.Pipeline) -> None:
        found = (
            pipeline
            | "Parts" >> beam.Create(calls)
            | "Spread" >> beam.Reshuffle()
            | "Fingerprint" >> beam.Map(_fingerprint)
        )
        once = pipeline | "Once" >> beam.Create([str(file)])
        _ = once | "Write" >> beam.Map(_write_sorted, pvalue.AsList(found))

    try:
        _run(build, options)
        found = read_record(file, _Fingerprints, remedy="run prepare again").found
    finally:
        file.unlink(missing_ok=True)
    refusals = [refusal for *_, refusal in found if refusal]
    if refusals:
        raise ValueError(refusals[0])
    return {
        split: corpus.fingerprint([x for name, _, x, _ in found if name == split])
        for split in parts
    }


def _fingerprint(call: tuple[str, int, Part]) -> tuple[str, int, str, str]:
    """Returns a part's split, index, fingerprint and error message ("" if none)."""
    split, index, part = call
    try:
        return split, index, part.fingerprint(), ""
    except ValueError as error:
        return split, index, "", str(error)


def _write_sorted(file: str, found: Sequence[tuple[str, int, str, str]]) -> None:
    write_record(file, {"found": sorted(found)})


def _run(
    build: Callable[[beam.Pipeline], None], options: pipeline_options.PipelineOptions
) -> None:
    """Runs a pipeline to its end."""
    runner = options.view_as(pipeline_options.StandardOptions).runner
    # Beam's direct runner would try to download a runner first; this one is its
    # fallback.
    is_direct = runner in (None, "DirectRunner")
    pipeline = beam.Pipeline(
        runner=fn_api_runner.FnApiRunner() if is_direct else None, options=options
    )
    build(pipeline)
    pipeline.run().wait_until_finish()


def _options(flags: Sequence[str]) -> pipeline_options.PipelineOptions:
    options = pipeline_options.PipelineOptions(list(flags))
    known = options.get_all_options()
    unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
    if unknown:
        raise ValueError(f"Beam has no options {sorted(unknown)}.")
    return options

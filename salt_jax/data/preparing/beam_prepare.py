"""What `prepare` does, as Apache Beam pipelines: the same bytes, on many machines.

One pipeline takes the fingerprints of all parts, which tell whether a split is there
already; then each split that is not is made by one of its own, in a folder beside its
place, and renamed into it.

Together with `beam_split`, what imports Apache Beam, which is in the extra `beam`.
"""

from __future__ import annotations

import json
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
from salt_jax.data.preparing.beam_split import SplitJob
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.data.preparing.prepare_split import SplitWork
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.data.vocabulary import Vocabulary


def prepare_with_beam(
    preparation: Preparation,
    flags: Sequence[str] = (),
    progress: Callable[[str], None] = logging.info,
) -> dict[str, PreparedDataset]:
    """Prepares every split that is not prepared yet; the bytes are those of `prepare`.

    Args:
      preparation: What to read and what to make of it. Workers must be able to read
        its corpus and its vocabulary, and to write to its output; how many there are is
        for the `flags` to say, not for num_processes and num_threads.
      flags: Beam's options, such as "--runner=DataflowRunner". By default, the
        pipelines run in this process.
      progress: Is told what happens, a line at a time.

    Returns:
      The splits, by name.

    Raises:
      FileNotFoundError: the corpus, a split of it or the vocabulary is missing.
      ValueError: a flag is unknown; the corpus is damaged or empty, has too many bad
        records or lacks a domain; or the output holds something prepared otherwise.
      Exception: what a runner raises when a worker failed, such as for want of room.
    """
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
            part_fingerprints=(),  # For going on with parts, which Beam does not.
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
            _run_split(work, preparation.vocabulary, options)
    return {work.settings.split: PreparedDataset.open(work.place) for work in works}


def _run_split(
    work: SplitWork, vocabulary: str, options: pipeline_options.PipelineOptions
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
    )
    work.progress(f"Preparing {work.settings.split!r}: {len(work.parts)} parts.")
    _run(lambda pipeline: job.build(pipeline, work.parts), options)
    if refusal := (folder / "refusal").read_text():
        folder.rmtree()
        raise ValueError(refusal)
    if report := (folder / "report").read_text():
        work.progress(report)
    (folder / "split").rename(work.place)
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
    # What a pipeline found comes back to the one that started it in a file.
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
        found = json.loads(file.read_text())
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
    """Returns the split, the index and the fingerprint of a part, and a refusal."""
    split, index, part = call
    try:
        return split, index, part.fingerprint(), ""
    except ValueError as error:
        return split, index, "", str(error)


def _write_sorted(file: str, found: Sequence[tuple[str, int, str, str]]) -> None:
    epath.Path(file).write_text(json.dumps(sorted(found)))


def _run(
    build: Callable[[beam.Pipeline], None], options: pipeline_options.PipelineOptions
) -> None:
    """Runs a pipeline to its end."""
    runner = options.view_as(pipeline_options.StandardOptions).runner
    # Beam's direct runner would fetch a program to run the pipeline in; this one is
    # what it uses when that fails.
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

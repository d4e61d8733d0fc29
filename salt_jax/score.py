"""Scoring: the small model reads the corpus and writes one record per sequence.

Each process runs the scorer on a mesh of its own devices, so the scorer must fit on
them. It takes one missing shard at a time, its own first and then any others. Processes
need not know of each other: the same command on two machines with a shared output
directory splits the work too. No process waits for another while it scores.

With --distributed, all processes wait for each other twice: Orbax restores the scorer
on all of them together, and they leave together. If one process dies, the others end
too, and the same command resumes. Without --distributed the others continue, and score
the shards of the dead process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import logging

from salt_jax.config import Scoring
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.score_bill import BillWriter, read_bill
from salt_jax.data.scoring.score_columns import score_columns
from salt_jax.data.scoring.scores import Scores, ScoresWriter
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.evaluation.reader import Reader, TokensRead
from salt_jax.mesh.memory import available_per_device, bytes_per_device, check_fits
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.flops import forward_flops
from salt_jax.model.quantized import abstract_held, reading_model
from salt_jax.model.transformer import Params, Transformer
from salt_jax.processes import job
from salt_jax.storage.export import Export
from salt_jax.telemetry.progress import Progress


def score(scoring: Scoring) -> Scores:
    """Scores the shards that are missing from the output; returns all scores.

    Raises:
      FileNotFoundError: the data, its vocabulary or the scorer's export is missing.
      ValueError: the export is of another model or vocabulary, the scorer does not fit
        the devices, or the output holds other scores.
    """
    mesh = scoring.mesh.build(jax.local_devices())
    partitioning = Partitioning(mesh=mesh, rules=scoring.rules)
    model = Transformer(scoring.scorer, partitioning)
    AttentionChoice.of(scoring.scorer, partitioning, scoring.seq_len).log("scorer")
    reader = Reader(
        read=token_reader(
            reading_model(model, scoring.scorer_dtype),
            scoring.chunk_tokens,
            with_entropy=True,
            kernel=scoring.loss_kernel,
        ),
        partitioning=partitioning,
        batch_size=scoring.batch_size,
    )
    like = abstract_held(model, scoring.scorer_dtype)
    device = mesh.local_devices[0]
    check_fits({"scorer": bytes_per_device(like)}, available_per_device(device))
    dataset = scoring.data.open(seq_len=scoring.seq_len)
    vocabulary = Vocabulary.open(scoring.data.vocabulary)
    export = Export.open_for(scoring.scorer_export, scoring.scorer, vocabulary)
    job.agree({"data": dataset.fingerprint, "scorer": export.fingerprint})
    writer = ScoresWriter.open(
        scoring.output,
        dataset,
        scorer_fingerprint=export.fingerprint,
        count=scoring.pool,
        ks=scoring.ks,
        shard_size=scoring.sequences_per_shard,
    )
    # With --distributed, restoring is collective: all processes do it, or none does.
    if jax.process_count() > 1 or writer.missing_shards():
        _score_shards(scoring, writer, dataset, reader, export.load(like))
    scores = writer.finish()
    if jax.process_index() == 0:
        _write_bill(scoring.output)
    _log_shares_of_zeros(scores)
    return scores


def _score_shards(
    scoring: Scoring,
    writer: ScoresWriter,
    dataset: PreparedDataset,
    reader: Reader,
    params: Params,
) -> None:
    """Scores until every shard is written, by this process or another."""
    manifest = writer.manifest
    parts: list[Mapping[str, np.ndarray]] = []
    with _ShardsProgress(writer) as progress, _bill(scoring) as bill:
        for tokens in reader.stream(params, dataset, _batches(writer, reader)):
            shard = int(tokens.ids[0]) // manifest.shard_size
            if tokens.ids[0] == manifest.shard_ids(shard)[0]:
                parts = []  # The previous shard may have been abandoned.
            parts.append(_columns(tokens, scoring))
            bill.read(len(tokens.ids))
            if tokens.ids[-1] < manifest.shard_ids(shard)[-1]:
                progress.read(len(tokens.ids))
                continue
            bill.write(shard)
            writer.write_shard(shard, _joined(parts))
            progress.look()


def _batches(writer: ScoresWriter, reader: Reader) -> Iterator[np.ndarray]:
    """Yields the sequence ids of each batch until no shard is left to take."""
    process, num_processes = jax.process_index(), jax.process_count()
    while (shard := writer.shards.take(process, num_processes)) is not None:
        for ids in reader.batches(writer.manifest.shard_ids(shard)):
            # Another process may have written the shard in the meantime.
            if writer.shards.is_written(shard):
                break
            yield ids


def _columns(tokens: TokensRead, scoring: Scoring) -> dict[str, np.ndarray]:
    assert tokens.entropy_NL is not None
    return score_columns(
        tokens.sequences,
        ce_NL=tokens.ce_NL,
        rank_NL=tokens.rank_NL,
        entropy_NL=tokens.entropy_NL,
        ks=scoring.ks,
    )


def _joined(parts: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _bill(scoring: Scoring) -> BillWriter:
    return BillWriter(
        scoring.output,
        seq_len=scoring.seq_len,
        flops_per_token=forward_flops(scoring.scorer, scoring.seq_len),
        num_accelerators=jax.local_device_count(),
    )


class _ShardsProgress:
    """Progress over the sequences of all processes, as far as this one knows."""

    def __init__(self, writer: ScoresWriter):
        self._writer = writer
        self._count_written()
        self._progress = Progress(
            "score", writer.manifest.count, initial=self._num_written
        )

    def __enter__(self) -> _ShardsProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._progress.close()

    def read(self, num_sequences: int) -> None:
        """Adds sequences of a shard that is not written yet."""
        self._num_read += num_sequences
        self._update()

    def look(self) -> None:
        """Counts the sequences of the shards that are written."""
        self._count_written()
        self._update()

    def _count_written(self) -> None:
        manifest = self._writer.manifest
        missing = self._writer.missing_shards()
        num_missing = sum(len(manifest.shard_ids(shard)) for shard in missing)
        self._shards = f"{manifest.num_shards - len(missing)}/{manifest.num_shards}"
        self._num_written, self._num_read = manifest.count - num_missing, 0

    def _update(self) -> None:
        done = self._num_written + self._num_read
        self._progress.update(done, shards=self._shards)


def _write_bill(output: str) -> None:
    """Writes `bill.json`, the sum of the bills of all processes so far."""
    try:
        bill = read_bill(output)
    except FileNotFoundError:
        return  # Of scores that were copied here without theirs.
    kind = jax.devices()[0].device_kind
    bill.as_run_bill(devices=jax.device_count(), device_kind=kind).write(output)


def _log_shares_of_zeros(scores: Scores) -> None:
    shares = scores.manifest.zero_shares
    assert shares is not None
    listed = ", ".join(
        f"{name} {share:.1%}" for name, share in shares.items() if "_zeros" in name
    )
    logging.info("Scored %d sequences. Shares of zero: %s.", len(scores), listed)

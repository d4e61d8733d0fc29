"""The small model reads the corpus and writes one record a sequence.

With several processes all of them read, and process 0 writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from salt_jax.config import Scoring
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.score_columns import salt_scores
from salt_jax.data.scores import Scores, ScoresWriter
from salt_jax.eval_step import token_reader
from salt_jax.export import Export
from salt_jax.held_out import OrderedReading
from salt_jax.memory import available_per_device, check_fits
from salt_jax.metrics import METRICS_FILE, MetricWriter, read_metrics
from salt_jax.model.flops import forward_flops
from salt_jax.model.transformer import Params, Transformer, abstract_params
from salt_jax.partitioning import Partitioning, bytes_per_device
from salt_jax.progress import Progress


def score(scoring: Scoring) -> Scores:
    """Scores the sequences that are not scored yet.

    Raises:
      FileNotFoundError: the data or the scorer's export is missing.
      ValueError: the scorer has another vocabulary than the data, or does not fit; the
        output holds other scores.
    """
    partitioning = Partitioning(mesh=scoring.mesh.build(), rules=scoring.rules)
    model = Transformer(scoring.scorer, partitioning)
    reading = OrderedReading(
        read=token_reader(model, scoring.chunk_tokens),
        partitioning=partitioning,
        batch_size=scoring.batch_size,
    )
    like = abstract_params(model, scoring.scorer_dtype)
    device = partitioning.mesh.local_devices[0]
    check_fits({"scorer": bytes_per_device(like)}, available_per_device(device))
    dataset = scoring.data.open(seq_len=scoring.seq_len)
    export = Export.open(scoring.scorer_export)
    export.check_model(scoring.scorer)
    export.check_vocabulary(dataset.manifest.settings.vocabulary_fingerprint)
    writer = _open_writer(scoring, dataset, export.fingerprint)
    shards = writer.missing_shards()
    # Every process has listed the same shards before one of them writes any.
    multihost_utils.sync_global_devices("missing shards")
    if shards:
        _score_shards(scoring, writer, shards, dataset, reading, export.load(like))
    if jax.process_index() == 0:
        writer.finish()
    multihost_utils.sync_global_devices("scored")
    scores = Scores.open(scoring.output, dataset)
    _log_shares_of_zeros(scores)
    return scores


def _open_writer(
    scoring: Scoring, dataset: PreparedDataset, scorer_fingerprint: str
) -> ScoresWriter:
    """Returns the scores in the making, which process 0 is the first to open."""
    is_first = jax.process_index() == 0
    if not is_first:
        multihost_utils.sync_global_devices("scores begun")
    writer = ScoresWriter.open(
        scoring.output,
        dataset,
        scorer_fingerprint=scorer_fingerprint,
        count=scoring.pool,
        ks=scoring.ks,
        shard_size=scoring.sequences_per_shard,
    )
    if is_first:
        multihost_utils.sync_global_devices("scores begun")
    return writer


def _score_shards(
    scoring: Scoring,
    writer: ScoresWriter,
    shards: Sequence[int],
    dataset: PreparedDataset,
    reading: OrderedReading,
    params: Params,
) -> None:
    total = writer.manifest.count
    missing = sum(len(writer.manifest.shard_ids(shard)) for shard in shards)
    done = total - missing
    with (
        Progress("score", total, initial=done) as progress,
        _Bill(scoring, from_step=done) as bill,
    ):
        for shard in shards:
            parts = []
            ids = writer.manifest.shard_ids(shard)
            for tokens in reading(params, dataset, ids):
                columns = salt_scores(
                    tokens.ce_NL, tokens.rank_NL, tokens.is_target, scoring.ks
                )
                parts.append(columns)
                done += len(tokens.ce_NL)
                progress.update(done)
            if jax.process_index() == 0:
                writer.write_shard(shard, _joined(parts))
            bill.add(done, num_sequences=len(ids))


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class _Bill:
    """What the scores have cost, over all the processes that made them.

    A record a shard, in `metrics.jsonl` beside the scores; its step is how many
    sequences are scored. Seconds are those of reading, the compiler's included.
    """

    def __init__(self, scoring: Scoring, *, from_step: int):
        self._scoring = scoring
        path = epath.Path(scoring.output)
        before = read_metrics(path) if (path / METRICS_FILE).exists() else []
        last = before[-1] if before else {}
        self._tokens, self._seconds = last.get("tokens", 0), last.get("seconds", 0.0)
        self._writer = MetricWriter(path, from_step=from_step)
        self._read_at = time.monotonic()

    def __enter__(self) -> _Bill:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, step: int, *, num_sequences: int) -> None:
        """Adds a shard of `num_sequences`, and the time since the one before."""
        seq_len = self._scoring.seq_len
        now = time.monotonic()
        self._seconds += now - self._read_at
        self._read_at = now
        self._tokens += num_sequences * seq_len
        per_token = forward_flops(self._scoring.scorer, seq_len)
        values = {
            "tokens": self._tokens,
            "flops": float(self._tokens * per_token),
            "seconds": self._seconds,
        }
        self._writer.write(step, values)


def _log_shares_of_zeros(scores: Scores) -> None:
    shares = scores.manifest.zero_shares
    assert shares is not None
    listed = ", ".join(
        f"{name} {share:.1%}" for name, share in shares.items() if "_zeros" in name
    )
    logging.info("Scored %d sequences. Shares of zero: %s.", len(scores), listed)

"""The small model reads the corpus and writes one record a sequence."""

from __future__ import annotations

import numpy as np
from absl import logging

from salt_jax.config import Scoring
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.score_columns import salt_scores
from salt_jax.data.scores import Scores, ScoresWriter
from salt_jax.eval_step import token_reader
from salt_jax.export import Export
from salt_jax.held_out import OrderedReading
from salt_jax.memory import available_per_device, check_fits
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
    writer = ScoresWriter.open(
        scoring.output,
        dataset,
        scorer_fingerprint=export.fingerprint,
        count=scoring.pool,
        ks=scoring.ks,
        shard_size=scoring.sequences_per_shard,
    )
    if writer.missing_shards():
        _score_shards(scoring, writer, dataset, reading, export.load(like))
    scores = writer.finish()
    _log_shares_of_zeros(scores)
    return scores


def _score_shards(
    scoring: Scoring,
    writer: ScoresWriter,
    dataset: PreparedDataset,
    reading: OrderedReading,
    params: Params,
) -> None:
    shards = writer.missing_shards()
    total = writer.manifest.count
    missing = sum(len(writer.manifest.shard_ids(shard)) for shard in shards)
    done = total - missing
    with Progress("score", total, initial=done) as progress:
        for shard in shards:
            parts = []
            for tokens in reading(params, dataset, writer.manifest.shard_ids(shard)):
                columns = salt_scores(
                    tokens.ce_NL, tokens.rank_NL, tokens.is_target, scoring.ks
                )
                parts.append(columns)
                done += len(tokens.ce_NL)
                progress.update(done)
            writer.write_shard(
                shard,
                {name: np.concatenate([p[name] for p in parts]) for name in parts[0]},
            )


def _log_shares_of_zeros(scores: Scores) -> None:
    shares = scores.manifest.zero_shares
    assert shares is not None
    listed = ", ".join(
        f"{name} {share:.1%}" for name, share in shares.items() if "_zeros" in name
    )
    logging.info("Scored %d sequences. Shares of zero: %s.", len(scores), listed)

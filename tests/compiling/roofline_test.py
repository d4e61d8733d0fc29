import dataclasses

import pytest

from salt_jax.compiling.roofline import LossTiling, matmul_seconds, memory_seconds
from salt_jax.mesh.chips import CHIPS
from salt_jax.model.config import TransformerConfig
from salt_jax.model.flops import reading_bill, step_flops, training_bill

LLM = TransformerConfig(
    vocab_size=262_144,
    num_layers=92,
    embed_dim=1024,
    num_heads=8,
    num_kv_heads=1,
    head_dim=128,
    mlp_dim=8192,
    remat="none",
)
SLM = dataclasses.replace(LLM, num_layers=44)
WHOLE = LossTiling(
    tokens=10_240, chunk_tokens=1024, vocab_size=262_144, student_dim=1024,
    teacher_dim=1024,
)  # fmt: skip


def test_a_bill_without_recomputation_is_that_of_the_model():
    assert training_bill(LLM, SLM, 1280).total == step_flops(LLM, SLM, 1280)
    assert training_bill(LLM, None, 1280).total == step_flops(LLM, None, 1280)
    reading = reading_bill(LLM, 1280)
    assert 3 * reading.total == step_flops(LLM, None, 1280)


def test_full_recomputation_is_a_forward_pass_without_the_last_product_of_a_block():
    full = dataclasses.replace(LLM, remat="full")
    bill = training_bill(full, None, 1280)
    last = 2 * 92 * 1024 * 8192
    assert bill.recomputed == bill.student_forward - last
    bill = training_bill(dataclasses.replace(full, post_norms=True), None, 1280)
    assert bill.recomputed == bill.student_forward
    attention = 4 * 92 * 8 * 128 * 1280
    bill = training_bill(
        dataclasses.replace(LLM, remat="save_dots_without_batch"), None, 1280
    )
    assert bill.recomputed == attention
    saved = dataclasses.replace(LLM, remat="save_attention")
    # The output's projection, and the feed-forward without its last product.
    kept = 92 * (2 * 1024 * 8 * 128 + 4 * 1024 * 8192)
    assert training_bill(saved, None, 1280).recomputed == kept


def test_products_of_the_loss_are_the_same_however_it_is_tiled():
    expected = 2 * 10_240 * 262_144 * (3 * 1024 + 1024)
    assert WHOLE.matmul_flops == expected
    for changes in {"chunk_tokens": 64}, {"vocab_shards": 16}:
        assert dataclasses.replace(WHOLE, **changes).matmul_flops == expected


def test_each_chunk_reads_both_embeddings_and_adds_to_the_gradient():
    # Two bytes for the student twice and the teacher; four for the gradient, twice.
    per_chunk = 262_144 * 1024 * (2 * 2 + 2 + 2 * 4)
    assert WHOLE.num_chunks == 10
    assert WHOLE.embedding_traffic == 10 * per_chunk
    alone = dataclasses.replace(WHOLE, teacher_dim=0)
    assert alone.embedding_traffic == 10 * 262_144 * 1024 * (2 * 2 + 2 * 4)


def test_a_split_vocabulary_pays_off_in_larger_chunks():
    split = dataclasses.replace(WHOLE, vocab_shards=16)
    assert split.num_chunks == 160
    assert split.embedding_traffic == WHOLE.embedding_traffic
    larger = dataclasses.replace(split, chunk_tokens=16 * 1024)
    assert larger.embedding_traffic == WHOLE.embedding_traffic // 16


def test_logits_cost_nothing_on_the_chip_and_four_bytes_a_pass_off_it():
    assert WHOLE.logits_bytes == 2 * 4 * 1024 * 262_144
    assert WHOLE.logits_traffic == 4 * 2 * 4 * 10_240 * 262_144
    split = dataclasses.replace(WHOLE, vocab_shards=64)
    assert split.logits_bytes == WHOLE.logits_bytes // 64 and not split.logits_traffic


def test_reading_makes_logits_once_and_no_gradient():
    reading = dataclasses.replace(WHOLE, teacher_dim=0, gradient=False)
    assert reading.matmul_flops == 2 * 10_240 * 262_144 * 1024
    assert reading.embedding_traffic == 10 * 262_144 * 1024 * 2
    assert reading.logits_traffic == 3 * 4 * 10_240 * 262_144


def test_kernels_move_logits_twice_for_a_gradient_and_never_without_one():
    kernels = dataclasses.replace(WHOLE, kernel="pallas")
    assert kernels.logits_traffic == 2 * 2 * 4 * 10_240 * 262_144
    assert not dataclasses.replace(kernels, gradient=False).logits_traffic


@pytest.mark.parametrize("seconds", [matmul_seconds, memory_seconds])
def test_no_time_is_made_up_for_a_chip_of_unknown_rates(seconds):
    assert seconds(1e12, None) is None


def test_times_are_those_of_the_published_rates():
    v5e = CHIPS["TPU v5 lite"]
    assert matmul_seconds(197e12, v5e) == memory_seconds(819e9, v5e) == 1.0

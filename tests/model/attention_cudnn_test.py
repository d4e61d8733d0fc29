"""cuDNN's calls, computed by JAX. B batch, L length, N all tokens, S segments."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.model import attention_cudnn
from salt_jax.model.attention_context import attention_mask
from salt_jax.model.attention_cudnn import cudnn
from salt_jax.model.attention_reference import reference
from tests.examples import on_mesh, partitioning
from tests.model.attention_kernels_test import (
    B,
    H,
    arrays,
    by_reference,
    check_equal,
    packing,
)

L, K = 32, 8
SMALL = {"head_dim": K, "length": L}


class CuDNN:
    """The two custom calls, from their operands and config alone."""

    def __init__(self, target, config, results):
        self.is_backward = target == "__cudnn$fmhaSoftmaxBackward"
        assert self.is_backward or target == "__cudnn$fmhaSoftmax"
        self.config = json.loads(config)["cudnn_fmha_backend_config"]
        self.results = results

    def __call__(self, q, k, v, *others):
        *others, q_lengths, k_lengths, q_offsets, k_offsets = others
        self.places = [
            self.place(x, *where)
            for x, *where in (
                (q, q_lengths, q_offsets),
                (k, k_lengths, k_offsets),
            )
        ]
        shared = q.shape[2] // k.shape[2]
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        wide = [jnp.repeat(x, shared, axis=1) for x in (k, v)]
        scores = self.config["fmha_scale"] * jnp.einsum("NHK,MHK->HNM", q, wide[0])
        scores = jnp.where(self.seen()[None], scores, -jnp.inf)
        if not self.is_backward:
            return self.forward(scores, wide[1])
        return self.backward(scores, q, *wide, shared, *others)

    def place(self, x, lengths, offsets):
        """Returns which tokens each segment has, and their positions in it."""
        token_1N = jnp.arange(x.shape[0] * x.shape[1])[None]
        stride, S = x.shape[2] * x.shape[3], lengths.size
        offsets_S1 = offsets.ravel()[:S, None]
        begin_S1 = offsets_S1 // stride
        is_in_SN = (token_1N >= begin_S1) & (
            token_1N < begin_S1 + lengths.ravel()[:, None]
        )
        return is_in_SN & (offsets_S1 % stride == 0), token_1N - begin_S1

    def seen(self):
        (is_q_SN, at_q_SN), (is_k_SN, at_k_SN) = self.places
        behind_SNN = at_q_SN[:, :, None] - at_k_SN[:, None, :]
        seen_SNN = is_q_SN[:, :, None] & is_k_SN[:, None, :]
        window = self.config["sliding_window_length"]
        if self.config["mask_type"] == "PADDING_CAUSAL":
            seen_SNN &= behind_SNN >= 0
        if window:
            seen_SNN &= behind_SNN < window
        return jnp.any(seen_SNN, axis=0)

    def forward(self, scores, v):
        lse_HN = jax.nn.logsumexp(scores, axis=-1)
        out = jnp.einsum("HNM,MHK->HNK", jnp.exp(scores - lse_HN[..., None]), v)
        statistics = []
        if len(self.results) == 3:
            # A row of statistics for each segment, with its own first token first.
            is_in_SN, at_SN = self.places[0]
            rows = jnp.arange(self.results[1].shape[0])[:, None]
            shape = self.results[1].shape
            empty = jnp.full((shape[0], shape[2], shape[1]), jnp.nan)
            where = jnp.where(is_in_SN, at_SN, shape[2])
            values = jnp.broadcast_to(lse_HN.T[None], (*is_in_SN.shape, shape[1]))
            statistics = [empty.at[rows, where].set(values, mode="drop").swapaxes(1, 2)]
        return [self.shaped(0, out, self.places[0]), *statistics, jnp.zeros(0)]

    def backward(self, scores, q, k, v, shared, statistics, gradient, out):
        is_in_SN, at_SN = self.places[0]
        lse_SNH = statistics.swapaxes(1, 2)[jnp.arange(len(is_in_SN))[:, None], at_SN]
        lse_NH = jnp.sum(jnp.where(is_in_SN[..., None], lse_SNH, 0), axis=0)
        gradient, out = (x.reshape(q.shape) for x in (gradient, out))
        covered_N11 = jnp.any(is_in_SN, axis=0)[:, None, None]
        gradient = jnp.where(covered_N11, gradient, 0)
        softmax = jnp.exp(scores - lse_NH.T[..., None])
        softmax_gradient = jnp.einsum("NHK,MHK->HNM", gradient, v)
        mean_NH = jnp.sum(gradient * jnp.where(covered_N11, out, 0), axis=-1)
        score_gradient = softmax * (softmax_gradient - mean_NH.T[..., None])
        score_gradient *= self.config["fmha_scale"]
        dq = jnp.einsum("HNM,MHK->HNK", score_gradient, k)
        dk = jnp.einsum("HNM,NHK->HMK", score_gradient, q)
        dv = jnp.einsum("HNM,NHK->HMK", softmax, gradient)
        dk, dv = (x.reshape(-1, shared, *x.shape[1:]).sum(1) for x in (dk, dv))
        places = (self.places[0], self.places[1], self.places[1])
        done = [self.shaped(i, x, places[i]) for i, x in enumerate((dq, dk, dv))]
        return [*done, jnp.zeros(0)]

    def shaped(self, i, x_HNK, place):
        """Returns the result `i`, with nonsense outside of all segments."""
        x_HNK = jnp.where(jnp.any(place[0], axis=0)[None, :, None], x_HNK, jnp.nan)
        rows, heads, length, size = self.results[i].shape
        return x_HNK.reshape(heads, rows, length, size).swapaxes(0, 1)


@pytest.fixture(autouse=True)
def _computed(monkeypatch):
    def ffi_call(target, results, *, legacy_backend_config, **_):
        return CuDNN(target, legacy_backend_config, results)

    monkeypatch.setattr(jax.ffi, "ffi_call", ffi_call)


def by_cudnn(partitioning, segments_BL, prefix_BL, **parts):
    return lambda *q_k_v: cudnn(partitioning, *q_k_v, segments_BL, prefix_BL, **parts)


@pytest.mark.parametrize(
    "kind, num_kv_heads",
    [("causal", H), ("packed", 2), ("prefix", 1), ("packed prefix", 2)],
)
def test_cudnn_and_its_gradients_are_those_of_the_reference(kind, num_kv_heads):
    rows = packing(kind, length=L)
    check_equal(
        by_cudnn(partitioning(), *rows, scale=0.4),
        by_reference(*rows, scale=0.4),
        arrays(num_kv_heads, **SMALL),
    )


def many(has_prefix):
    """Returns rows of 3 to 32 segments, some of one token, most with a prefix."""
    rng = np.random.default_rng(0)
    share = np.array([[0.05], [0.3], [1.0], [0.1]])
    is_first_BL = rng.random((B, L)) < share
    is_first_BL[:, 0] = True
    segments_BL = np.cumsum(is_first_BL, axis=1, dtype=np.int32)
    begin_BL = np.maximum.accumulate(np.where(is_first_BL, np.arange(L), 0), axis=1)
    prefix_BL = (np.arange(L) - begin_BL < 3) & (segments_BL % 3 > 0)
    return jnp.asarray(segments_BL), jnp.asarray(prefix_BL) if has_prefix else None


@pytest.mark.parametrize("per_row", [2, 5, 100])
@pytest.mark.parametrize("has_prefix", [False, True])
def test_no_segment_is_left_out_however_many_a_call_reads(
    has_prefix, per_row, monkeypatch
):
    monkeypatch.setattr(attention_cudnn, "SEGMENTS_PER_ROW", per_row)
    rows = many(has_prefix)
    check_equal(
        by_cudnn(partitioning(), *rows), by_reference(*rows), arrays(2, **SMALL)
    )


def test_a_window_ends_where_that_of_the_reference_does():
    segments_BL, _ = packing("packed", length=L)
    near_1LM = jnp.arange(L)[None, None] > jnp.arange(L)[None, :, None] - 5
    mask_BLM = attention_mask(segments_BL) & near_1LM
    check_equal(
        by_cudnn(partitioning(), segments_BL, None, window=5, is_global=False),
        lambda q, k, v: reference(q, k, v, mask_BLM),
        arrays(2, **SMALL),
    )


def test_a_window_in_a_prefix_is_refused():
    rows = packing("packed prefix", length=L)
    with pytest.raises(ValueError, match="window of 5.*prefix"):
        by_cudnn(partitioning(), *rows, window=5)(*arrays(2, **SMALL)[:3])


def test_on_a_mesh_each_device_calls_for_its_own_rows_and_heads():
    mesh = partitioning(4, model=2)
    rows = tuple(on_mesh(x, mesh) for x in many(has_prefix=True))
    check_equal(by_cudnn(mesh, *rows), by_reference(*rows), arrays(2, **SMALL))

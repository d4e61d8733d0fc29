"""Statistics of targets whose vocabulary is padded."""

import jax
import numpy as np
import pytest

from salt_jax.loss.token_statistics import chunked_token_statistics
from tests.loss.losses_test import B, L, V, partitioned, unembedding

REAL = 27  # Of the 32 rows; four shards split row 24 to 32 from the rest.


def statistics(mesh, targets_BL, **options):
    """The statistics of a model whose padding is likelier than all tokens."""
    model = unembedding(1)
    model = model.replace(embedding_VD=model.embedding_VD.at[REAL:].multiply(9.0))
    read = jax.jit(
        lambda model: chunked_token_statistics(
            model,
            targets_BL,
            partitioning=partitioned(mesh),
            chunk_tokens=5,
            **options,
        )
    )
    return model, read(model)


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_padding_has_no_probability_in_what_is_known_of_a_target(mesh):
    targets_BL = jax.random.randint(jax.random.key(7), (B, L), 0, REAL)
    model, found = statistics(mesh, targets_BL, real_vocab_size=REAL)
    log_p_BLV = jax.nn.log_softmax(model.logits()[..., :REAL].astype(np.float32))
    taken_BL1 = np.take_along_axis(log_p_BLV, targets_BL[..., None], axis=-1)
    np.testing.assert_allclose(found.ce_BL, -taken_BL1[..., 0], rtol=1e-5)
    np.testing.assert_array_equal(found.rank_BL, np.sum(log_p_BLV > taken_BL1, axis=-1))
    entropy_BL = -np.sum(np.exp(log_p_BLV) * log_p_BLV, axis=-1)
    np.testing.assert_allclose(found.entropy_BL, entropy_BL, rtol=1e-5)
    whole = statistics(mesh, targets_BL)[1]
    assert np.mean(whole.ce_BL - found.ce_BL) > 1.0


def test_a_target_that_is_padding_and_a_size_that_is_none_are_refused():
    targets_BL = np.full((B, L), REAL)
    found = statistics("one", targets_BL, real_vocab_size=REAL)[1]
    assert np.all(np.isnan(found.ce_BL))
    with pytest.raises(ValueError, match=f"real_vocab_size={V + 1}.* {V} "):
        statistics("one", targets_BL, real_vocab_size=V + 1)

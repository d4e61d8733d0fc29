"""What tests of denoisers share: a mixture for short rows, and the way back to text."""

import dataclasses

import numpy as np

from salt_jax.data.reading.objectives import CausalLM, Mixture, PrefixLM, SpanCorruption

VOCABULARY = "embedded:tokenizer/spm_4k_ul2.model"
FIRST_SENTINEL = 4096
NUM_SENTINELS = 125
SENTINELS = np.arange(FIRST_SENTINEL, FIRST_SENTINEL + NUM_SENTINELS, dtype=np.int32)

# UL2's, with the long spans short enough for rows of 32 tokens.
SHORT_UL2 = Mixture(
    denoisers=(
        CausalLM(),
        PrefixLM(),
        SpanCorruption(),
        SpanCorruption(rate=0.5, mean_length=4.0),
    ),
    weights=(6, 2, 1, 1),
)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A selection made by hand."""

    ids: tuple[int, ...]

    def select(self, dataset):
        return np.array(self.ids)


def is_sentinel(tokens):
    tokens = np.asarray(tokens)
    return (tokens >= FIRST_SENTINEL) & (tokens < FIRST_SENTINEL + NUM_SENTINELS)


def text_of(inputs, targets):
    """Puts the targets back where they were, one token at a time."""
    spans, current = {}, None
    if not is_sentinel(targets[:1]).any():
        return [*inputs, *targets]
    for token in targets:
        if is_sentinel(token):
            assert token not in spans
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text = []
    for token in inputs:
        text += spans.pop(token) if is_sentinel(token) else [token]
    assert not spans
    return text


def examples_of(batch):
    """Yields (row, inputs, targets) of each segment of a batch, from its arrays."""
    for row, segments in enumerate(batch.segments_BL):
        for segment in range(1, segments.max() + 1):
            (columns,) = np.nonzero(segments == segment)
            is_target = batch.weights_BL[row, columns] == 1
            tokens = batch.targets_BL[row, columns]
            yield row, tokens[~is_target].tolist(), tokens[is_target].tolist()

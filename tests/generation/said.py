"""An export of a model that says one sentence again and again."""

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.storage.export_writing import write_export
from tests import runs
from tests.examples import saying, small_model

SENTENCE = "The capital of France is Paris."  # Every token once.
MAX_LENGTH = 64


def make_export(path):
    """Writes it; the model ends no text."""
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    model, params = small_model(vocab_size=vocabulary.size, tied_embedding=False)
    write_export(
        path,
        saying(params, vocabulary.encode(SENTENCE)),
        model=model.config,
        vocabulary=vocabulary.path,
        provenance={"step": 0},
        dtype="float32",
        seq_len=MAX_LENGTH,
    )
    return path

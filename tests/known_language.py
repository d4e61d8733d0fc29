"""A small language with a known truth, and models of it, for tests."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.languages.markov import MarkovLanguage
from salt_jax.data.languages.symbols import symbols_vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.unembedding import Unembedding
from salt_jax.studies.known_truth import KnownTeacher, KnownTruth

MODEL = TransformerConfig(
    vocab_size=4,
    num_layers=1,
    embed_dim=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=16,
    dtype="float32",
    remat="none",
    scan_layers=False,
)


def language(folder, *, size=4, order=1, concentration=0.5):
    """A language over a vocabulary that is written into `folder`."""
    path = pathlib.Path(folder) / f"symbols_{size}.json"
    path.write_bytes(symbols_vocabulary(size))
    return MarkovLanguage(
        vocabulary=str(path), order=order, concentration=concentration
    )


def all_rows(truth, seq_len):
    """All rows of `seq_len` tokens, and the probability of each."""
    size = truth.probabilities_CV.shape[1]
    targets_BL = np.array([*itertools.product(range(size), repeat=seq_len)], np.int32)
    tokens_BL = np.pad(targets_BL[:, :-1], ((0, 0), (1, 0)))
    contexts_BL = truth.contexts(tokens_BL)
    chances_B = truth.probabilities_CV[contexts_BL, targets_BL].prod(axis=1)
    ones_BL = np.ones_like(targets_BL)
    positions_BL = np.tile(np.arange(seq_len, dtype=np.int32), (len(targets_BL), 1))
    batch = Batch(
        tokens_BL, targets_BL, ones_BL.astype(np.float32), ones_BL, positions_BL
    )
    return batch, chances_B


@dataclasses.dataclass(frozen=True)
class TruthItself:
    """A model of a language of order 1 that predicts its truth, in whole logits."""

    truth: object
    partitioning: object
    config: TransformerConfig = MODEL

    @classmethod
    def of(cls, truth):
        mesh = MeshShape().build(jax.devices()[:1])
        return cls(truth, Partitioning(mesh=mesh))

    def apply(self, params, batch):
        """Reads no parameters but a scale of the logits, to have a gradient."""
        logits_CV = np.log(self.truth.probabilities_CV + 1e-30)
        hidden_BLC = jax.nn.one_hot(batch.tokens_BL, len(logits_CV))
        return Unembedding(hidden_BLC, params["scale"] * jnp.array(logits_CV.T))


def study(folder=None, **changes):
    """A study of students that are trained for a few steps."""
    vocabulary = "embedded:tokenizer/symbols_32.json"
    data = MarkovLanguage(vocabulary=vocabulary, order=1, concentration=0.5)
    model = dataclasses.replace(MODEL, vocab_size=8)  # Divides over eight devices.
    fields = {
        "language": data if folder is None else language(folder, size=8),
        "student": model,
        "teachers": (KnownTeacher(name="brief", model=model, num_steps=4),),
        "student_steps": (4, 8),
        "output": f"{folder}/study",
        "batch_size": 8,
        "seq_len": 8,
        "peak_learning_rate": 1e-2,
        "end_learning_rate": 1e-3,
        "warmup_steps": 2,
        "num_sequences": 16,
        "measure_every": 2,
        "gradient_steps": (4, 8),
        "gradient_batches": 3,
    }
    return KnownTruth(**fields | changes)

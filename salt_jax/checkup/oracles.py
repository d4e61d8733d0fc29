"""The SALT loss and its gradient by NumPy, in float64 on the host: what is right.

Dimensions: T tokens, D embed, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blend:
    """A weighted sum of losses, the parts of it, and its gradient."""

    values: dict[str, float]  # Sums over tokens: loss, ce, and with a teacher kd, kl.
    hidden_TD: np.ndarray  # The gradient of the loss by the student's hidden states.
    embedding_VD: np.ndarray  # And by its embedding.


def blend(
    student: tuple[np.ndarray, np.ndarray],
    teacher: tuple[np.ndarray, np.ndarray] | None,
    targets_T: np.ndarray,
    weights_T: np.ndarray,
    *,
    kd_weight: float,
    temperature: float,
) -> Blend:
    """Returns (1 - w) CE + w KD, as `losses.salt_loss` defines it.

    Args:
      student: Hidden states [T, D] and embedding [V, D] of the student.
      teacher: Those of the teacher, or None.
      targets_T: The next token at each position.
      weights_T: The weight of each target.
      kd_weight: w.
      temperature: Divides the teacher's logits.
    """
    hidden_TD, embedding_VD = (np.asarray(x, np.float64) for x in student)
    weights_T = np.asarray(weights_T, np.float64)
    log_p_TV = _log_softmax(hidden_TD @ embedding_VD.T)
    target_TV = np.zeros_like(log_p_TV)
    target_TV[np.arange(len(targets_T)), targets_T] = 1.0
    wanted_TV = target_TV  # The distribution that the loss pulls towards.
    parts = {"ce": -np.sum(target_TV * log_p_TV, axis=1)}
    if teacher is not None:
        h_TD, e_VD = (np.asarray(x, np.float64) for x in teacher)
        logits_TV = h_TD @ e_VD.T
        soft_TV = np.exp(_log_softmax(logits_TV / temperature))
        log_q_TV = _log_softmax(logits_TV)
        wanted_TV = (1.0 - kd_weight) * target_TV + kd_weight * soft_TV
        parts["kd"] = -np.sum(soft_TV * log_p_TV, axis=1)
        parts["kl"] = np.sum(np.exp(log_q_TV) * (log_q_TV - log_p_TV), axis=1)
    parts["loss"] = -np.sum(wanted_TV * log_p_TV, axis=1)
    dlogits_TV = weights_T[:, None] * (np.exp(log_p_TV) - wanted_TV)
    return Blend(
        values={name: float(np.sum(x_T * weights_T)) for name, x_T in parts.items()},
        hidden_TD=dlogits_TV @ embedding_VD,
        embedding_VD=dlogits_TV.T @ hidden_TD,
    )


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the norm of the difference, relative to that of `expected`."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def scale_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns how far the part of `found` along `expected` is from `expected`.

    Rounding errors of many numbers cancel in it, and a wrong factor does not.
    """
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return float(abs(found @ expected / (expected @ expected) - 1.0))


def _log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    shifted_TV = logits_TV - logits_TV.max(axis=1, keepdims=True)
    return shifted_TV - np.log(np.exp(shifted_TV).sum(axis=1, keepdims=True))

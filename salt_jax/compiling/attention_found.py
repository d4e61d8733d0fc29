"""The kernels that compute attention in a compiled program, from its HLO text."""

from __future__ import annotations

# What only one of the kernels of `model/attention_choice.py` leaves in a program: a
# custom call, or the product of queries and keys that stores the scores.
_TRACES = {
    "splash": "splash_mha",
    "cudnn": 'custom_call_target="__cudnn$fmhaSoftmax',
    "cudnn_bias": 'custom_call_target="__cudnn$fmhaScaleBias',
    "xla": "BGRLK,BGMK->BGRLM",
    "reference": "BLGRK,BMGK->BGRLM",
}


def attention_kernels(text: str) -> list[str]:
    """Returns the names of the kernels of a program, such as ["cudnn"].

    Args:
      text: The result of `Compiled.as_text`.
    """
    return [name for name, trace in _TRACES.items() if trace in text]

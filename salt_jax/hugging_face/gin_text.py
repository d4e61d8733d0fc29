"""The architecture of an imported model as gin text, to include in an experiment."""

from __future__ import annotations

import dataclasses

from salt_jax.model.config import COMPUTE_FIELDS, RopeScaling, TransformerConfig

_HEADER = """# The architecture of {what}. Include this file in an experiment and set
# its teacher or student to @imported/model.TransformerConfig().

from __gin__ import dynamic_registration
from salt_jax.model import config as model

imported/model.TransformerConfig:
"""


def model_gin(model: TransformerConfig, what: str) -> str:
    """Returns gin text that binds `imported/model.TransformerConfig` to `model`.

    Every field is bound, so bindings for all models of an experiment do not change this
    one. The `COMPUTE_FIELDS` are left to the experiment.
    """
    lines = []
    scaling = model.rope_scaling
    for field in dataclasses.fields(model):
        if field.name in COMPUTE_FIELDS:
            continue
        value = getattr(model, field.name)
        text = repr(value)
        if isinstance(value, RopeScaling):
            text = "@imported/model.RopeScaling()"
        lines.append(f"  {field.name} = {text}")
    text = _HEADER.format(what=what) + "\n".join(lines) + "\n"
    return text if scaling is None else text + _scaling(scaling)


def _scaling(scaling: RopeScaling) -> str:
    numbers = dataclasses.asdict(scaling).items()
    bound = [f"  {name} = {value!r}" for name, value in numbers if value is not None]
    return "\n".join(["", "imported/model.RopeScaling:", *bound]) + "\n"

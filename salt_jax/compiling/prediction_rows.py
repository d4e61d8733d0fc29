"""The predicted times of programs, as rows of the table of `compile` and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from salt_jax.compiling.inspected import Inspected
from salt_jax.compiling.prediction import Prediction
from salt_jax.compiling.schedule import COPIES, OTHER, PRODUCTS, Item

_Cell = Callable[[Inspected], float | None]
_MOST = 3  # Items in words.


def prediction_sections() -> list[tuple[str, list[tuple[str, _Cell]]]]:
    """Returns the rows of all predicted figures, by section."""
    times: list[tuple[str, _Cell]] = [
        ("whole step", _ms(lambda one: one.seconds)),
        ("  products", _ms(lambda one: one.of(PRODUCTS))),
        ("    at peak rate", _ms(lambda one: one.peak_seconds)),
        ("  other operations", _ms(lambda one: one.of(OTHER))),
        ("  copies, waited for", _ms(lambda one: one.of(COPIES))),
        ("  exposed collectives", _ms(lambda one: one.exposed(across_slices=False))),
        ("    across slices", _ms(lambda one: one.exposed(across_slices=True))),
        ("hidden collectives", _ms(hidden_seconds)),
    ]
    shares: list[tuple[str, _Cell]] = [
        ("MFU", _of(lambda one: 100 * one.mfu)),
        ("with recomputation", _of(lambda one: 100 * one.hfu)),
    ]
    return [
        ("ms a step, predicted", times),
        ("% of peak FLOPs, predicted", shares),
    ]


def hidden_seconds(prediction: Prediction) -> float:
    """Returns the seconds of collective operations that other work covers."""
    exposed = [prediction.exposed(across_slices=across) for across in (False, True)]
    return prediction.sending_seconds - sum(exposed)


def in_words(inspected: Sequence[Inspected]) -> list[str]:
    """Returns lines that say what takes longest beside products at peak rate."""
    lines = []
    for one in inspected:
        if one.prediction is not None:
            costs = [
                f"{1000 * seconds:,.0f} ms {item.part} ({where_in_words(item)})"
                for item, seconds in one.prediction.largest(100)
                if item.part != PRODUCTS
            ]
            lines.append(f"  {one.planned.name}: {'; '.join(costs[:_MOST])}.")
    if not lines:
        return []
    return [
        "Predicted from the compiled schedule and published rates, not measured. "
        "Longest beside the products:",
        *lines,
        *_ratio(inspected),
    ]


def where_in_words(item: Item) -> str:
    """Returns the end of the JAX operation of an item: module and operation."""
    parts = [part for part in item.where.split("/") if "(" not in part]
    skipped = {"while", "body", "closed_call", "checkpoint", "rematted_computation"}
    named = [part for part in parts if part not in skipped]
    pass_ = "backward " if "transpose(" in item.where else ""
    return pass_ + ("/".join(named[-3:]) or "unnamed")


def _ratio(inspected: Sequence[Inspected]) -> list[str]:
    """Returns how much longer steps with a teacher take, and by FLOPs alone."""
    steps = [x for x in inspected if x.planned.stage and x.prediction]
    taught = [x for x in steps if x.planned.flops.teacher_forward]
    plain = [x for x in steps if not x.planned.flops.teacher_forward]
    lines = []
    for one in taught:
        for other in plain:
            assert one.prediction and other.prediction
            ratio = one.prediction.seconds / other.prediction.seconds
            floor = one.planned.flops.total / other.planned.flops.total
            names = f"{one.planned.name} / {other.planned.name}"
            lines.append(f"{names}: {ratio:.3f}; by FLOPs alone, {floor:.3f}.")
    return lines


def _of(figure: Callable[[Prediction], float]) -> _Cell:
    return lambda one: None if one.prediction is None else figure(one.prediction)


def _ms(seconds: Callable[[Prediction], float]) -> _Cell:
    return _of(lambda one: 1000 * seconds(one))

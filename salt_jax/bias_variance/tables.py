"""Tables of a bias and variance page, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.bias_variance.sweep import ONE_HOT
from salt_jax.report import page


def risks(study: Mapping[str, Any]) -> str:
    """Returns the excess risk by arm and number of tokens."""
    header = ["excess risk, nats", *(f"{x:,} tokens" for x in study["tokens"])]
    best = [
        min(arm["mean"][i] for arm in study["arms"].values())
        for i in range(len(study["tokens"]))
    ]
    rows = [
        [
            _arm(name),
            *(
                f"{x:.4f}{' *' if x == least else ''}"
                for x, least in zip(arm["mean"], best, strict=True)
            ),
        ]
        for name, arm in study["arms"].items()
    ]
    return page.table(header, rows, totals=0)


def teachers(study: Mapping[str, Any]) -> str:
    """Returns bias and crossing of each teacher."""
    header = [
        "teacher",
        "trained, steps",
        "KL(truth, teacher), nats",
        "squared distance",
        "one-hot labels win from, tokens",
        "a distilled student reaches it at, tokens",
    ]
    rows = [
        [
            name,
            f"{x['steps']:,}",
            f"{x['labels']['kl']:.4f}",
            f"{x['labels']['squared_distance']:.5f}",
            crossing(x["crossing_tokens"], study["tokens"]),
            ", ".join(map(_tokens, x["reached_tokens"])),
        ]
        for name, x in study["teachers"].items()
    ]
    return page.table(header, rows, totals=0)


def leaving(study: Mapping[str, Any]) -> str:
    """Returns where the rule left each teacher, and what came of it."""
    header = [
        "teacher",
        "the rule leaves at, tokens",
        "excess risk by the rule",
        "taught to the end",
        "one-hot throughout",
    ]
    rows = [
        [
            name,
            ", ".join(map(_tokens, x["leaves"]["tokens"])),
            f"{x['leaves']['mean']:.4f}",
            f"{study['arms'][name]['mean'][-1]:.4f}",
            f"{study['arms'][ONE_HOT]['mean'][-1]:.4f}",
        ]
        for name, x in study["teachers"].items()
    ]
    return page.table(header, rows, totals=0)


def gradients(measured: Sequence[Mapping[str, Any]]) -> str:
    """Returns bias and variance of the gradient at each student."""
    header = [
        "student",
        "labels",
        "variance",
        "one-hot variance / variance",
        "squared bias",
        "its noise",
        "same error as one-hot at, tokens",
        "best kd_weight for a batch",
    ]
    rows = []
    for x in measured:
        hot = x["one_hot"]["variance"]
        rows.append([x["student"], "one-hot", _number(hot), "1", "0", "", "", ""])
        rows += [
            [
                x["student"],
                labels,
                _number(soft["variance"]),
                f"{hot / soft['variance']:.3g}",
                _number(soft["squared_bias"]),
                _number(soft["squared_bias_noise"]),
                _tokens(soft["equal_error_batches"] * x["tokens_per_batch"]),
                f"{soft['best_kd_weight']:.2f}",
            ]
            for labels, soft in x["soft"].items()
        ]
    return page.table(header, rows, totals=0)


def difficulty(measured: Mapping[str, Any]) -> str:
    """Returns where the teacher is wrong and confident, by thirds of the rows."""
    rows = measured["thirds"]
    students = list(rows[0]["students"])
    header = [
        "rows",
        "teacher's loss",
        "wrong",
        "wrong and confident",
        "teacher's loss there",
        "share of its loss",
        *(f"loss of {name} there" for name in students),
    ]
    cells = [
        [
            x["rows"],
            f"{x['teacher_loss']:.3f}",
            f"{x['wrong']:.1%}",
            f"{x['wrong_and_confident']:.2%}",
            _loss(x["teacher_loss_there"]),
            f"{x['share_of_teacher_loss']:.1%}",
            *(_loss(x["students"][name]["loss_there"]) for name in students),
        ]
        for x in rows
    ]
    return page.table(header, cells, totals=1)


def crossing(tokens: float, measured: Sequence[float]) -> str:
    """Returns, in words, from how many tokens on one-hot labels win."""
    if tokens == 0.0:
        return f"below {measured[0]:,}"
    if math.isinf(tokens):
        return f"above {measured[-1]:,}"
    return _tokens(tokens)


def _arm(name: str) -> str:
    return "one-hot labels" if name == ONE_HOT else f"labels of {name!r}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tokens(value: float | None) -> str:
    if value is None:
        return "never"
    return "any" if math.isinf(value) else f"{value:,.0f}"

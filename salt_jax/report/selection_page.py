"""The HTML page of a selection report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt_jax.report import page
from salt_jax.report.selection_figures import domains_figure, histogram_figure
from salt_jax.report.svg import svg

_SHOWN = {"highest": "highest", "median": "middle", "lowest": "lowest"}
# Control characters, which HTML does not allow.
_CONTROLS = {i: "\ufffd" for i in (*range(32), 127) if chr(i) not in "\n\t"}


def selection_page(described: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page on the selections of some stages, warnings first."""
    first, *others = [repr(one["stage"]) for one in described]
    title = f"Selection of stage {first}"
    if others:
        title = f"Selections of stages {' and '.join([first, *others])}"
    warnings = [
        page.warning(f"Stage {one['stage']!r}: {line}")
        for one in described
        for line in one["warnings"]
    ]
    parts = [part for one in described for part in _sections(one)]
    return page.document(title, *warnings, *parts)


def _sections(one: Mapping[str, Any]) -> Iterator[str]:
    yield page.section(f"Stage {one['stage']!r}", *map(page.paragraph, _findings(one)))
    yield page.section("By domain", *_domains(one))
    yield page.section("Sequences kept, by score", *_histograms(one))
    yield page.section("Scores equal to 0", *_zero_shares(one))
    yield page.section("The scorer's losses", *_loss_quantiles(one))
    if one["near_duplicates"] is not None:
        yield page.section("Near-duplicates", *_near_duplicates(one["near_duplicates"]))
    yield page.section("Texts", *_texts(one))


def _findings(one: Mapping[str, Any]) -> Iterator[str]:
    scored, kept = one["scored"], one["kept"]
    yield (
        f"Of {one['sequences']:,} sequences in {one['dataset']}, {scored:,} are scored "
        f"({scored / one['sequences']:.1%}), and {kept:,} of those are kept "
        f"({kept / scored:.1%}): {one['kept_tokens']:,} tokens. The stage reads "
        f"{one['read']:,} sequences: {one['epochs']:.2f} epochs of the kept ones."
    )
    yield f"The sequences of highest worth are kept. Ranking: {one['ranking']}."
    bill = one["bill"]
    if bill["share"] is None:
        yield "The cost of scoring is not known: the scores have no bill."
        return
    yield (
        f"Scoring cost {bill['scoring_flops']:.3e} FLOPs, {bill['share']:.2%} of the "
        f"{bill['baseline_flops']:.3e} of BASELINE: the same student trained for as "
        "many steps without a teacher."
    )


def _domains(one: Mapping[str, Any]) -> Iterator[str]:
    overall = one["kept"] / one["scored"]
    yield page.picture(
        svg(domains_figure(one["domains"], overall)),
        says="Bar chart: the share kept by domain, as in the table below.",
        caption=f"The share kept by domain. Dashed line: {overall:.1%} overall. A "
        "sequence counts for the domain of most of its tokens.",
        numbers="selection.json",
    )
    rows = [
        [
            domain["domain"],
            f"{domain['scored']:,}",
            f"{domain['kept']:,}",
            f"{domain['kept_share']:.1%}",
            f"{domain['scored'] / one['scored']:.1%}",
            f"{domain['kept'] / one['kept']:.1%}",
            _number(domain["mean_worth"]),
            _number(domain["mean_worth_kept"]),
        ]
        for domain in one["domains"]
    ]
    header = ["Domain", "Scored", "Kept", "Share kept", "Of scored", "Of kept"]
    yield page.table([*header, "Mean worth", "Kept mean"], rows, totals=0)


def _histograms(one: Mapping[str, Any]) -> Iterator[str]:
    names = {"worth": f"worth by {one['ranking']}", "mean_loss": "mean loss, nats"}
    for key, name in names.items():
        yield page.picture(
            svg(histogram_figure(one["histograms"][key], name)),
            says=f"Histogram of the sequences kept and left out, by {name}.",
            caption=f"Sequences kept and left out, by {name}.",
            numbers="selection.json",
        )


def _zero_shares(one: Mapping[str, Any]) -> Iterator[str]:
    shares = one["zero_shares"].items()
    yield page.note("Share of all scored sequences. Ties are ordered by id.")
    rows = [[name, f"{share:.1%}"] for name, share in shares]
    yield page.table(["Score", "Equal to 0"], rows, totals=0)


def _loss_quantiles(one: Mapping[str, Any]) -> Iterator[str]:
    yield page.note(
        "Quantiles of the token cross-entropies within a sequence [nats], averaged "
        "over sequences."
    )
    rows = [
        [f"{row['percent']:g} %", f"{row['scored']:.3f}", f"{row['kept']:.3f}"]
        for row in one["loss_quantiles"]
    ]
    yield page.table(["Quantile", "All scored", "Kept"], rows, totals=0)


def _near_duplicates(found: Mapping[str, Any]) -> Iterator[str]:
    yield page.paragraph(
        f"{found['dropped']:,} sequences are left out because a near-duplicate of "
        "higher worth stays."
    )
    if found["pairs"]:
        yield page.note("The pairs with the lowest similarity:")
    for pair in found["pairs"]:
        yield page.heading(f"{pair['similarity']:.1%} of their shingles are shared")
        for name in "stays", "dropped":
            yield page.note(f"{name.capitalize()}: {_about(pair[name])}")
            yield _text(pair[name])


def _texts(one: Mapping[str, Any]) -> Iterator[str]:
    for key, name in _SHOWN.items():
        yield page.heading(f"The {name} {len(one['texts'][key])}")
        for example in one["texts"][key]:
            kept = "kept" if example["kept"] else "left out"
            yield page.note(f"{_about(example)}, {kept}")
            yield _text(example)


def _about(example: Mapping[str, Any]) -> str:
    worth = _number(example["worth"])
    return f"sequence {example['id']:,}, {example['domain']}, worth {worth}"


def _text(example: Mapping[str, Any]) -> str:
    text = example["text"].translate(_CONTROLS)
    return page.preformatted(text) if text.strip() else page.note("(no text)")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"

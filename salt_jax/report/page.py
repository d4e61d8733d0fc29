"""HTML elements of pages that open offline: no scripts, no external resources.

Each function escapes its plain text and returns HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

# The theme follows the reader's system. On narrow screens a table scrolls, not the
# page.
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #222; --quiet: #5a5a5a;
  --rule: #ddd; --box: #f5f5f3; --link: #0b5f8a; --alert: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --ink: #e4e4e2;
  --quiet: #a6a6a3; --rule: #3a3f44; --box: #20252a; --link: #6db8e0;
  --alert: #f0915a; } }
* { box-sizing: border-box; }
body { max-width: 58rem; margin: 1.5rem auto 4rem; padding: 0 1rem; color: var(--ink);
  background: var(--page); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
figure { margin: 1rem 0 1.5rem; }
img { display: block; width: 100%; max-width: 44rem; height: auto; }
figcaption, .note { color: var(--quiet); font-size: .9rem; }
.warning { border-left: .3rem solid var(--alert); background: var(--box);
  margin: .5rem 0; padding: .4rem .8rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
thead th { vertical-align: bottom; white-space: normal; overflow-wrap: normal;
  min-width: 4.5em; }
th:first-child { text-align: left; position: sticky; left: 0; padding-left: 0;
  background: var(--page); max-width: 45vw; white-space: normal;
  overflow-wrap: break-word; }
tbody th { font-weight: inherit; min-width: 7em; }
tr.total { font-weight: 600; }
pre { white-space: pre-wrap; background: var(--box); padding: .6rem .8rem;
  margin: .3rem 0; font-size: .85rem; }
pre.copy { user-select: all; }
details.section { border-top: 1px solid var(--rule); }
details.section > summary { cursor: pointer; padding: .6rem 0; }
details.section > summary h2 { display: inline; font-size: 1.05rem; }
details > summary { cursor: pointer; }
"""


def document(title: str, *parts: str) -> str:
    """Returns a complete HTML document with a title."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Returns a section with a heading."""
    return "\n".join(["<section>", f"<h2>{escape(heading)}</h2>", *parts, "</section>"])


def folded_section(heading: str, *parts: str) -> str:
    """Returns a section that opens when its heading is clicked."""
    summary = f"<summary><h2>{escape(heading)}</h2></summary>"
    return "\n".join(['<details class="section">', summary, *parts, "</details>"])


def heading(text: str) -> str:
    """Returns a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Returns an explanatory paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """Returns a highlighted paragraph."""
    return f'<p class="warning">{escape(text)}</p>'


def preformatted(text: str) -> str:
    """Returns text with its spaces and line breaks kept."""
    return f"<pre>{escape(text)}</pre>"


def copyable(text: str) -> str:
    """Returns preformatted text that one click selects."""
    return f'<pre class="copy">{escape(text)}</pre>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, totals: int) -> str:
    """Returns a table whose first column names the rows.

    Args:
      header: The heading of each column.
      rows: The cells of each row, as many as headings.
      totals: The number of rows at the end that are set in bold.
    """
    lines = ['<div class="wide"><table>', "<thead><tr>"]
    lines += [f'<th scope="col">{escape(text)}</th>' for text in header]
    lines.append("</tr></thead><tbody>")
    for i, row in enumerate(rows):
        kind = ' class="total"' if i >= len(rows) - totals else ""
        name, *cells = map(escape, row)
        cells = [f"<td>{cell}</td>" for cell in cells]
        lines.append(f'<tr{kind}><th scope="row">{name}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def picture(svg: bytes, *, says: str, caption: str, numbers: str) -> str:
    """Returns an SVG figure, embedded in the page.

    Args:
      svg: The file's bytes.
      says: The alternative text.
      caption: The caption.
      numbers: The name of the JSON file with the plotted numbers, beside the page.
    """
    data = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(says)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)} {link(numbers, 'Numbers (JSON)')}</figcaption>"
        "</figure>"
    )


def link(file: str, text: str) -> str:
    """Returns a link to a file beside the page."""
    return f'<a href="{escape(file)}">{escape(text)}</a>'


def folded(summary: str, *parts: str) -> str:
    """Returns parts that open when their summary is clicked."""
    body = "\n".join(parts)
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"

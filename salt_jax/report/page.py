"""HTML that opens offline: no scripts, and nothing fetched from anywhere.

Every function takes plain text, escapes it, and returns HTML to be nested in the
next. Nothing here knows what is being reported.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; font: 1rem/1.5 system-ui, sans-serif; }
p, figcaption { overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
figure { margin: 1rem 0 2rem; }
img { width: 100%; max-width: 48rem; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; }
.warning { border-left: .3rem solid #c2571a; background: #fdf3ec; margin: .5rem 0;
  padding: .4rem .8rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e6e6e6; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
tbody th { font-weight: inherit; }
tr.total { font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4;
  padding: .6rem .8rem; margin: .3rem 0; font-size: .85rem; }
"""


def document(title: str, *parts: str) -> str:
    """Returns a whole page that begins with its title."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Returns the parts under a heading."""
    return "\n".join(["<section>", f"<h2>{escape(heading)}</h2>", *parts, "</section>"])


def heading(text: str) -> str:
    """Returns a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Returns a paragraph that says how to read what is beside it."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """Returns a paragraph that is not to be overlooked."""
    return f'<p class="warning">{escape(text)}</p>'


def preformatted(text: str) -> str:
    """Returns text whose spaces and line ends count."""
    return f"<pre>{escape(text)}</pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, totals: int) -> str:
    """Returns a table whose first column names the rows.

    Args:
      header: One text for each column.
      rows: As many texts in each.
      totals: How many of the last rows sum up the others, and stand out.
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


def picture(png: bytes, *, says: str, caption: str) -> str:
    """Returns a picture, held in the page itself.

    Args:
      png: The file's bytes.
      says: What someone who does not see the picture should know from it.
      caption: What stands below it.
    """
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(says)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def folded(summary: str, *parts: str) -> str:
    """Returns parts that are shown when the reader asks for them."""
    body = "\n".join(parts)
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"

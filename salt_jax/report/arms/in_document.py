"""A laboratory's tables inside a Markdown document that people write."""

from __future__ import annotations

from etils import epath

from salt_jax.files.reading import read_file
from salt_jax.files.writing import write_file


def put(document: epath.PathLike, lab: str, text: str) -> None:
    """Replaces what stands between the two marks of a laboratory in a document.

    The marks are the lines "<!-- lab NAME -->" and "<!-- end of lab NAME -->".

    Args:
      document: A Markdown file.
      lab: The name of the laboratory.
      text: What then stands there.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it has not each mark once, in this order.
    """
    path = epath.Path(document)
    if not path.exists():
        raise FileNotFoundError(f"No document at {path} to put tables into.")
    begin, end = f"<!-- lab {lab} -->", f"<!-- end of lab {lab} -->"
    whole = read_file(path).decode()
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise ValueError(
            f"{path} needs a line '{begin}' and after it '{end}', each once: the "
            "tables are put between them."
        )
    write_file(path, f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")

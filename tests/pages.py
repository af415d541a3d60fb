"""Parts of the documentation that a command writes."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end -->"


def replace_part(page: Path, begin: str, text: str) -> None:
    """Replace what is in a page between the comment `begin` and the next `END`."""
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(END)
    assert found, f"{page} lacks {begin}"
    assert closed, f"{page} lacks {END}"
    page.write_text(f"{before}{begin}\n{text}\n{END}{after}")

"""The pictures in the documentation can be drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error

ROOT = Path(__file__).resolve().parents[2]
MERMAID = ROOT / "js" / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"
PARSE = "async text => { await mermaid.parse(text) }"


def problems(browser: Browser, pictures: list[tuple[str, str]]) -> list[str]:
    page = browser.new_page()
    found = []
    try:
        page.add_script_tag(path=str(MERMAID))
        for name, text in pictures:
            try:
                page.evaluate(PARSE, text)
            except Error as error:
                found.append(f"{name}: {error}")
    finally:
        page.close()
    return found


@pytest.mark.soak
def test_every_picture_can_be_drawn(browser: Browser) -> None:
    pictures = [
        (path.name, text)
        for path in sorted((ROOT / "docs").glob("*.md"))
        for text in re.findall(r"```mermaid\n(.*?)```", path.read_text(), re.DOTALL)
    ]
    assert len(pictures) >= 5
    assert problems(browser, pictures) == []


def test_a_picture_that_cannot_be_drawn_is_found(browser: Browser) -> None:
    assert problems(browser, [("x", "sequenceDiagram\n  A->>B: one; two: three")])

"""Links, quoted messages and examples in the documentation are good."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_widget.api import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "project"} & set(page.parts)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        target, _, anchor = link.partition("#")
        file = page if not target else (page.parent / target).resolve()
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), f"{link}: {sorted(anchors(file))}"


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link).resolve() for link in links(index)}
    decisions = ROOT / "docs" / "decisions" / "README.md"
    listed |= {(decisions.parent / link).resolve() for link in links(decisions)}
    assert {page for page in PAGES if page.parent != ROOT} - {index} <= listed


def messages() -> str:
    """All texts in the package's code, placeholders as an ellipsis."""
    texts = []
    for path in (ROOT / "mlc_widget").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()


def test_every_error_has_its_place_in_troubleshooting() -> None:
    tree = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.MLCEngineError)
    }
    named = set(re.findall(r"^`(\w+Error)`", TROUBLES, re.MULTILINE))
    assert tree - {"MLCEngineError"} == named


def test_messages_that_troubleshooting_quotes_are_in_the_code() -> None:
    said = messages()
    quoted = re.findall(r'(?<![\w=(])"([A-Za-z][^"`]{9,})"', TROUBLES)
    assert len(quoted) >= 4
    for quote in quoted:
        assert re.sub(r"SIG\w+ \(\d+\)", "…", quote) in said, quote


def test_the_client_of_the_guide_works(tmp_path: Path) -> None:
    """Against a real worker, as a reader would run it."""
    text = (ROOT / "docs" / "driving-the-worker.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "client.py"
    script.write_text(code)
    settings = '{"runtime": "scripted", "runtime_options": {"text": "Hello there."}}'
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "MLC_WIDGET_WORKER": settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["Hello there.", "Hello there."], done.stdout

"""The page docs/hosts.md: what was tried in which host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..pages import replace_part

PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"
BEGIN = "<!-- written by `make hosts` -->"
STEPS = ("shown", "streams", "stops", "two pages")
"""The chat is drawn with its style; a reply grows; Stop ends it; a second page has its own."""
NOTES = {
    "JupyterLab with collaboration": "The second visitor shares the first one's notebook and chat.",
    "JupyterHub": "With JupyterLab; each user has a server, and a chat, of their own.",
    "marimo": "The load's progress is shown, too.",
    "Voilà": "",
    "Shiny for Python": "With `@render_widget`; each session has its own chat.",
    "Panel": 'With `pn.extension("ipywidgets")`; it takes anywidget\'s front end from a CDN.',
    "Streamlit": "It cannot show Jupyter widgets, and the chat says so; see below.",
}


@dataclass
class Result:
    """What was tried in one host.

    Attributes:
        host: Its name.
        versions: Of its packages.
        done: The steps that passed, in their order.
        fault: Why the next one did not.
    """

    host: str
    versions: str
    done: list[str] = field(default_factory=list)
    fault: str = ""

    def passed(self, step: str) -> None:
        """Note that a step has passed."""
        assert step in STEPS
        self.done.append(step)


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        f"| host | {' | '.join(STEPS)} | tried with | |",
        f"| --- |{' --- |' * len(STEPS)} --- | --- |",
    ]
    for result in results:
        marks = ["yes" if step in result.done else "no" for step in STEPS]
        note = result.fault or NOTES[result.host]
        lines.append(f"| {result.host} | {' | '.join(marks)} | {result.versions} | {note} |")
    return "\n".join(lines)


def write_page(results: Sequence[Result]) -> None:
    """Replace the table in the page."""
    replace_part(PAGE, BEGIN, table(results))

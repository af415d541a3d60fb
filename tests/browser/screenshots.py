"""Takes the README's screenshots of JupyterLab with SmolLM2.

``python -m tests.browser.screenshots [folder]``, from the repository's root; the folder is
docs/images if not given. It writes light.png and dark.png, a chat, and map-light.png and
map-dark.png, a map over a table.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright

from .chat import Chat
from .conftest import FLAGS, find_chromium
from .lab import DEADLINE_MS, Lab, Notebook

CELLS = [
    "%load_ext mlc_widget",
    'engine = await create_kernel_mlc_engine("smollm2-135m")',
    "chat = ChatWidget(engine, temperature=0)\nchat",
    "import time\n\ntime.sleep(30)  # the kernel is busy; the chat is not",
]
QUESTIONS = [
    "What is the capital of France? Answer in one word.",
    "And of Italy?",
    "And of Germany?",
]
TABLE = [
    """%load_ext mlc_widget
engine = await create_kernel_mlc_engine("smollm2-135m")""",
    """import pandas as pd
from typing import Literal

said = ["I love it", "It broke after a day", "It works perfectly", "What a waste of money"]
things = ["lamp", "radio", "kettle", "chair", "clock", "desk", "stove"]
reviews = pd.DataFrame(
    {"review": [f"Order {i}: a {things[i % 7]}. {said[i % 4]}." for i in range(120)]}
)
reviews["truth"] = ["positive", "negative"] * 60""",
    """labelled = await engine.map(
    "Is this review positive or negative? {review}",
    reviews,
    schema=Literal["positive", "negative"],
    into="label",
    probabilities=True,
    cache=False,
)""",
    'engine.evaluate(labelled, "truth", column="label")',
]


@contextmanager
def pictured(
    browser: Browser, lab: Lab, theme: str, file: Path, cells: Sequence[str], height: int
) -> Iterator[Notebook]:
    """A new notebook, of which a screenshot is taken at the end."""
    lab.set("apputils-extension", "themes", theme=theme)
    name = f"{file.stem}/{'chat' if cells is CELLS else 'table'}.ipynb"
    lab.write(name, cells)
    size = ViewportSize(width=1000, height=height)
    page = browser.new_page(viewport=size, device_scale_factor=2, reduced_motion="reduce")
    notebook = Notebook(page, lab.address(name))
    yield notebook
    page.mouse.move(0, 0)
    page.screenshot(path=file)
    notebook.close()
    page.close()


def take(browser: Browser, lab: Lab, theme: str, file: Path) -> None:
    """One screenshot, of a conversation that goes on while a cell runs."""
    with pictured(browser, lab, theme, file, CELLS, 980) as notebook:
        for index in (0, 1, 2):
            notebook.run(index)
            notebook.expect_done(index)
        chat = Chat(notebook.output(2))
        notebook.run(3)
        notebook.expect_running(3)
        for count, question in enumerate(QUESTIONS, 1):
            chat.ask(question)
            expect(chat.replies).to_have_count(count)
            expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text(
                "tok/s", timeout=DEADLINE_MS
            )
        notebook.expect_running(3)


def take_map(browser: Browser, lab: Lab, theme: str, file: Path) -> None:
    """One screenshot, of a map that is done, and of how good its labels are."""
    with pictured(browser, lab, theme, file, TABLE, 1180) as notebook:
        for index in range(len(TABLE)):
            notebook.run(index)
            notebook.expect_done(index)
        expect(notebook.output(2).locator(".mlcw-map")).to_contain_text("Done")


def main(folder: Path) -> None:
    """Take all screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        lab = Lab(Path(home))
        try:
            # The first load compiles the model's code; the pictures show what it is from then on.
            take(browser, lab, "JupyterLab Light", Path(home) / "first.png")
            take(browser, lab, "JupyterLab Light", folder / "light.png")
            take(browser, lab, "JupyterLab Dark", folder / "dark.png")
            take_map(browser, lab, "JupyterLab Light", folder / "map-light.png")
            take_map(browser, lab, "JupyterLab Dark", folder / "map-dark.png")
        finally:
            lab.close()
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))

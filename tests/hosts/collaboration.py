"""Two users of one notebook, in JupyterLab with real-time collaboration."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from ..browser.chat import CHAT, Chat, create, expect_growing, start_chat, wait_for_saved
from ..browser.lab import DEADLINE_MS, Lab, Notebook
from ..widget.script_folder import write_script_folder
from .table import Result

PACKAGES = ("jupyterlab", "jupyter-collaboration")
NAME = "shared.ipynb"
CODE = "found = 6 * 7"
TEXT = f"```python\n{CODE}\n```\n\n{'word ' * 400}"
SOURCES = "window.jupyterapp.shell.currentWidget.model.sharedModel.cells.map((cell) => cell.source)"


def join(browser: Browser, lab: Lab, user: str, scheme: str) -> Notebook:
    """The notebook in a window of a user's own, which has nothing in common with the other's."""
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(DEADLINE_MS)
    address = lab.address(NAME).replace(f"/{Path(NAME).stem}/tree/", f"/{user}/tree/")
    return Notebook(context.new_page(), address)


def check_collaboration(browser: Browser, folder: Path, result: Result) -> None:
    """One chat for both: each sees it, asks and stops; it is saved once, and disturbs nobody."""
    model = write_script_folder(folder / "script")
    lab = Lab(folder / "lab")
    try:
        lab.write(NAME, ["# last"])
        one = join(browser, lab, "one", "light")
        other = join(browser, lab, "other", "dark")
        # As by the notebook's own commands: it trusts cells that a user makes, for all users.
        one.page.evaluate(
            """sources => window.jupyterapp.shell.currentWidget.model.sharedModel.insertCells(0,
                sources.map((source) =>
                    ({ cell_type: "code", source, metadata: { trusted: true } })))""",
            [create(model, text=TEXT, pace_s=0.03), CHAT],
        )
        one.run(0)
        one.expect_done(0)
        mine = start_chat(one)
        theirs = Chat(other.output(1))
        expect(theirs.root).to_be_visible()
        result.passed("shown")
        mine.ask("Hello")
        expect_growing(theirs)
        expect_growing(mine)
        result.passed("streams")
        theirs.stop.click()
        for chat in (mine, theirs):
            expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")
        result.passed("stops")
        check_drafts(lab, one, mine, theirs)
        check_reloads(lab, one, other)
        check_cells(one, other)
        result.passed("two pages")
    finally:
        lab.close()


def check_drafts(lab: Lab, one: Notebook, mine: Chat, theirs: Chat) -> None:
    """What one user writes, and where, stays as it is while the other asks."""
    node = theirs.root.element_handle()
    theirs.input.fill("a draft")
    mine.ask("A second question")
    expect_growing(theirs)
    mine.stop.click()
    expect(mine.stop).to_be_hidden()
    wait_for_saved(lab, one, 1, "A second question", save=False)
    expect(theirs.root.locator(".mlcw-user")).to_have_count(2)
    expect(theirs.input).to_have_value("a draft")
    expect(theirs.input).to_be_focused()
    assert node is not None
    assert node.evaluate("node => node.isConnected"), "the other user's chat was drawn anew"
    theirs.input.fill("")


def check_reloads(lab: Lab, one: Notebook, other: Notebook) -> None:
    """When both have loaded the page again, both have the chat, and one of them keeps it."""
    chats = [Chat(notebook.output(1)) for notebook in (one, other)]
    for notebook, chat in zip((one, other), chats, strict=True):
        notebook.reload()
        expect(chat.root).to_be_visible(timeout=DEADLINE_MS)
    for number in range(3):
        asker = chats[number % 2]
        asker.ask(f"After a reload, {number}")
        for chat in chats:
            expect(chat.root.locator(".mlcw-user")).to_have_count(3 + number)
        asker.stop.click()
        expect(asker.stop).to_be_hidden()
        wait_for_saved(lab, one, 1, f"After a reload, {number}", save=False)


def check_cells(one: Notebook, other: Notebook) -> None:
    """A reply's code that one user inserts is there once, for both."""
    chat = Chat(other.output(1))
    chat.replies.first.locator(".mlcw-code").get_by_role("button", name="Insert").click()
    for notebook in (one, other):
        notebook.page.wait_for_function(f"() => {SOURCES}.length === 4")
        assert notebook.page.evaluate(SOURCES)[1:] == [CHAT, CODE, "# last"]

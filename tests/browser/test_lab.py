"""The widgets in JupyterLab, with a real kernel and a real worker that follows a script."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ViewportSize, expect

from .chat import CHAT, LONG, Chat, create, expect_growing, start_chat, wait_for_saved
from .lab import DEADLINE_MS, BusyCell, Lab, Notebook

LAB = tuple(map(int, version("jupyterlab").split(".")[:2]))
OpenNotebook = Callable[..., Notebook]


BROKEN = "mlc-chat-config.json is not valid"
MAP = """
from mlc_widget import MLCEngine
engine = MLCEngine(runtime="scripted", runtime_options={{"pace_s": 0.05}})
engine.reload({folder!r})
rows = [{{"text": f"<b>row {{i}}</b>"}} for i in range(100_000)]
out = engine.map("Say {{text}}", rows, cache=False)
print(out[0]["error"], "|", out[-1]["error"])"""


def test_loads_and_maps_show_how_far_they_are_and_offer_a_way_on(
    open_notebook: OpenNotebook, model_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "mlc-chat-config.json").write_text("{ not json")
    may_load = tmp_path / "may load"
    may_load.touch()
    dies: dict[str, Any] = {"text": "word", "repeat": 400, "pace_s": 0.01, "crash_after": 60}
    notebook = open_notebook(
        [
            create(model_folder, load_s=2),
            create(broken),
            MAP.format(folder=str(model_folder)).strip(),
            create(model_folder, **dies, load_waits_for=str(may_load)),
            CHAT,
        ]
    )
    the_bar_fills(notebook, 0)
    a_bad_model_folder_is_explained(notebook, 1)
    notebook.page.set_viewport_size(ViewportSize(width=480, height=900))
    a_map_is_paused_and_stopped_while_its_cell_blocks(notebook, 2)
    notebook.page.set_viewport_size(ViewportSize(width=1100, height=900))
    notebook.run(3)
    notebook.expect_done(3)
    a_dead_worker_is_replaced(start_chat(notebook, 4), may_load)


def the_bar_fills(notebook: Notebook, cell: int) -> None:
    notebook.page.evaluate(
        """() => {
            window.shares = [];
            window.watch = new MutationObserver(() => {
                const bar = document.querySelector('.mlcw-load [role=progressbar][aria-valuenow]');
                if (bar && !bar.hidden) window.shares.push(Number(bar.ariaValueNow));
            });
            window.watch.observe(document.body, {subtree: true, childList: true, attributes: true});
        }"""
    )
    notebook.run(cell)
    panel = notebook.output(cell).locator(".mlcw-load")
    expect(panel.get_by_role("progressbar")).to_be_visible()
    expect(panel).to_contain_text("MB")
    notebook.expect_running(cell)
    expect(panel).to_contain_text("script is ready", timeout=DEADLINE_MS)
    expect(panel.get_by_role("progressbar")).to_be_hidden()
    notebook.expect_done(cell)
    shares = notebook.page.evaluate("window.watch.disconnect(), window.shares")
    assert shares == sorted(shares)
    assert len(set(shares)) >= 5, shares


def a_bad_model_folder_is_explained(notebook: Notebook, cell: int) -> None:
    notebook.run(cell)
    panel = notebook.output(cell).locator(".mlcw-load")
    expect(panel).to_contain_text("Could not load broken", timeout=DEADLINE_MS)
    expect(panel.locator(".mlcw-error-text:visible")).to_have_text("ModelFormatError")
    expect(notebook.output(cell)).to_contain_text(BROKEN)
    # In the error, and not in the panel above it, too.
    assert notebook.output(cell).inner_text().count(BROKEN) == 1
    notebook.expect_done(cell, ok=False)


def a_map_is_paused_and_stopped_while_its_cell_blocks(notebook: Notebook, cell: int) -> None:
    notebook.run(cell)
    output = notebook.output(cell)
    panel = output.locator(".mlcw-map")
    expect(panel.locator("tbody tr")).to_have_count(6)
    expect(panel.locator("tbody td").first).to_contain_text("<b>row")
    panel.get_by_role("button", name="Pause").click()
    expect(panel.get_by_role("status")).to_have_text("Paused")
    notebook.expect_running(cell)
    panel.get_by_role("button", name="Resume").click()
    expect(panel.get_by_role("status")).to_have_text("Running")
    panel.get_by_role("button", name="Stop").press("Enter")
    notebook.expect_done(cell)
    expect(panel).to_contain_text("Stopped; the rows that are done are kept")
    expect(panel.get_by_role("button")).to_have_count(0)
    expect(output).to_contain_text("None | Stopped: the map was stopped")
    summary = output.locator('[data-mime-type="text/html"]').last
    expect(summary).to_be_hidden()
    expect(summary).to_contain_text("map: stopped")


def a_dead_worker_is_replaced(chat: Chat, may_load: Path) -> None:
    load = chat.root.locator(".mlcw-load")
    chat.ask("Go on")
    problem = chat.replies.last.locator(".mlcw-problem")
    expect(problem).to_be_visible(timeout=DEADLINE_MS)
    chat.input.fill("typed meanwhile")
    # What comes next loads the model again, which shows; a load that is cancelled can be repeated.
    may_load.unlink()
    load.get_by_role("button", name="Try again").click()
    expect(load.get_by_role("progressbar")).to_be_visible()
    load.get_by_role("button", name="Cancel").click()
    expect(load).to_contain_text("was cancelled", timeout=DEADLINE_MS)
    may_load.touch()
    load.get_by_role("button", name="Try again").click()
    expect(load).to_be_hidden(timeout=DEADLINE_MS)
    expect(chat.root.locator(".mlcw-state")).to_contain_text(" MB")
    problem.get_by_role("button", name="Try again").click()
    expect(chat.replies.last.get_by_role("group", name="Versions")).to_contain_text("2/2")
    expect(chat.input).to_have_value("typed meanwhile")


def test_a_chat_streams_and_stops_while_cells_run(
    open_notebook: OpenNotebook, model_folder: Path, tmp_path: Path
) -> None:
    """One notebook's story, first with all that a kernel offers, then with less and less of it."""
    without_control = "kernel = get_ipython().kernel\nkernel.control_handlers.pop('comm_msg');"
    # As on a kernel without subshells: every message to this comm goes to the main shell.
    without_subshells = "chat.comm._reply_subshell_for = lambda data, default: None"
    busy = [BusyCell(tmp_path, name) for name in ("all", "no control", "no subshells")]
    codes = [cell.code for cell in busy]
    notebook = open_notebook(
        [
            *(create(model_folder, **LONG), CHAT, "chat.send('More')", codes[0]),
            *(without_control, codes[1], without_subshells, codes[2]),
        ]
    )
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    try:
        it_streams_and_stops_while_cells_run(notebook, chat, busy[0])
        notebook.run(4)
        notebook.expect_done(4)
        if LAB >= (4, 4):  # which has subshells since then
            stop_goes_by_a_subshell(notebook, chat, busy[1])
        notebook.run(6)
        notebook.expect_done(6)
        where_nothing_gets_through_it_says_that_it_waits(notebook, chat, busy[2])
    finally:
        for cell in busy:
            cell.end()


def it_streams_and_stops_while_cells_run(notebook: Notebook, chat: Chat, busy: BusyCell) -> None:
    # The cell that asks is done before the answer is.
    notebook.run(2)
    notebook.expect_done(2)
    expect(chat.replies.last).to_have_attribute("aria-busy", "true")
    expect_growing(chat)

    # Tokens arrive while another cell runs, and Stop ends them while it still does.
    notebook.run(3)
    notebook.expect_running(3)
    expect_growing(chat)
    expect_growing(chat)
    notebook.expect_running(3)
    expect_stop(chat)
    notebook.expect_running(3)

    # So does asking again.
    chat.ask("And now?")
    expect(chat.root.locator(".mlcw-user").last).to_contain_text("And now?")
    expect(chat.input).to_have_value("")
    expect_growing(chat)
    notebook.expect_running(3)
    busy.end()
    notebook.expect_done(3)
    expect_growing(chat)
    chat.input.press("Escape")
    expect(chat.stop).to_be_hidden()


def expect_stop(chat: Chat) -> None:
    """Stop the reply, and wait until it says so."""
    chat.stop.click()
    expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")
    expect(chat.stop).to_be_hidden()


def stop_goes_by_a_subshell(notebook: Notebook, chat: Chat, busy: BusyCell) -> None:
    """Where the control channel takes no messages to comms."""
    notebook.run(5)
    notebook.expect_running(5)
    chat.ask("By a subshell")
    expect(chat.root.locator(".mlcw-user").last).to_contain_text("By a subshell")
    expect_growing(chat)
    expect_stop(chat)
    notebook.expect_running(5)
    busy.end()
    notebook.expect_done(5)


def where_nothing_gets_through_it_says_that_it_waits(
    notebook: Notebook, chat: Chat, busy: BusyCell
) -> None:
    notebook.run(7)
    notebook.expect_running(7)
    chat.ask("At last")
    expect(chat.root.locator(".mlcw-note")).to_contain_text("running a cell")
    expect(chat.input).to_have_value("At last")
    notebook.expect_running(7)
    busy.end()
    notebook.expect_done(7)
    expect(chat.root.locator(".mlcw-user").last).to_contain_text("At last")
    expect_growing(chat)
    expect(chat.input).to_have_value("")
    expect(chat.root.locator(".mlcw-note")).to_be_hidden()


def test_the_chat_outlives_a_reload_of_the_page_in_mid_stream(
    open_notebook: OpenNotebook, lab: Lab, model_folder: Path
) -> None:
    notebook = open_notebook([create(model_folder, **LONG), CHAT])
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    chat.ask("Go on")
    expect_growing(chat)
    before = chat.text_length()
    notebook.reload_widgets()
    expect(chat.root).to_be_visible(timeout=DEADLINE_MS)
    expect_growing(chat)
    assert chat.text_length() > before
    text = chat.replies.last.locator(".mlcw-body").inner_text()
    assert set(text.split()) == {"word"}
    chat.stop.click()
    expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")

    # It keeps the transcript up to date, too.
    chat.ask("And after a reload?")
    expect_growing(chat)
    expect_stop(chat)
    wait_for_saved(lab, notebook, 1, "And after a reload?")


@pytest.mark.soak  # tests/browser/test_page.py has all states in a narrow page
def test_it_fits_a_narrow_page(open_notebook: OpenNotebook, model_folder: Path) -> None:
    text = "Averyveryverylongwordwithoutanyplacetobreakitatallandthensome " * 3
    notebook = open_notebook([create(model_folder, text=text), CHAT], width=480)
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    chat.ask("Anotherveryverylongwordwithoutanyplacetobreakitatallandthensomemore")
    expect(chat.replies.last.locator(".mlcw-facts")).to_be_visible()
    overflow = chat.root.evaluate(
        """root => [...root.querySelectorAll('*')]
            .filter(node => !node.closest('.mlcw-sr') && node.getClientRects().length)
            .filter(node => !node.matches('.mlcw-title-text')) // its button cuts it off
            .filter(node => node.getBoundingClientRect().right
                > root.getBoundingClientRect().right + 0.5)
            .map(node => node.className)"""
    )
    assert overflow == []


@pytest.mark.soak
def test_a_map_outlives_a_reload_of_the_page(
    open_notebook: OpenNotebook, model_folder: Path
) -> None:
    rows = "rows = [{'text': f'row {i}'} for i in range(100_000)]"
    notebook = open_notebook(
        [
            f"{create(model_folder, pace_s=0.05)}\n{rows}\n%load_ext mlc_widget",
            "%%map rows --to engine --into out --no-cache\nSay {text}",
            "print(_map.report.rows, _map.report.state)",
        ]
    )
    notebook.run(0)
    notebook.expect_done(0)
    notebook.run(1)
    notebook.expect_done(1)
    expect(notebook.output(1).locator(".mlcw-map tbody tr")).to_have_count(6)
    notebook.reload_widgets()
    panel = notebook.output(1).locator(".mlcw-map")
    expect(panel.locator("tbody tr")).to_have_count(6, timeout=DEADLINE_MS)
    expect(panel.get_by_role("status")).to_have_text("Running")
    seen = panel.locator("tbody tr").last.inner_text()
    expect(panel.locator("tbody tr").last).not_to_have_text(seen)  # it goes on
    panel.get_by_role("button", name="Pause").click()
    expect(panel.get_by_role("status")).to_have_text("Paused")
    panel.get_by_role("button", name="Stop").click()
    expect(panel).to_contain_text("Stopped; the rows that are done are kept")
    notebook.run(2)
    notebook.expect_done(2)
    expect(notebook.output(2)).to_contain_text("stopped")

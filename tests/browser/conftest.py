"""Fixtures for the tests that drive JupyterLab in Chromium: one server, one browser, many pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    Request,
    ViewportSize,
    sync_playwright,
)

from ..widget.script_folder import write_script_folder
from .lab import DEADLINE_MS, BusyCell, Lab, Notebook

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")

OpenNotebook = Callable[..., Notebook]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests, and run them first, since they are the slowest."""
    here = Path(__file__).parent
    files = {path for path in {item.path for item in items} if here in path.parents}
    for item in items:
        if item.path in files:
            item.add_marker(pytest.mark.browser)
    items.sort(key=lambda item: item.path not in files)


def find_chromium() -> str:
    """The browser: $CHROMIUM, or the first of the usual names on PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "The browser tests need Chromium: run `apt-get install chromium`, or set CHROMIUM to "
            "the path of a Chromium or Chrome.",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The browser's folder, which keeps JupyterLab's compiled scripts from page to page."""
    return tmp_path_factory.mktemp("chromium")


class Chromium:
    """The browser, and what tests have left open in it; it is started when it is needed."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._open = ExitStack()
        self._window: BrowserContext | None = None
        self.empty_labs: list[Page] = []
        """Pages of JupyterLab with nothing open."""

    @property
    def window(self) -> BrowserContext:
        """The window that has this profile; pages elsewhere have nothing in common."""
        if self._window is None:
            path = find_chromium()
            playwright = self._open.enter_context(sync_playwright())
            self._window = playwright.chromium.launch_persistent_context(
                self._profile, executable_path=path, args=FLAGS
            )
            self._open.callback(self._window.close)
            self._window.set_default_timeout(DEADLINE_MS)
        return self._window

    def close(self) -> None:
        """Close it; it can be started again."""
        self._window = None
        self.empty_labs.clear()
        self._open.close()


CHROMIUM = pytest.StashKey[Chromium]()


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config, profile: Path) -> Iterator[Chromium]:
    pytestconfig.stash[CHROMIUM] = chromium = Chromium(profile)
    yield chromium
    chromium.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Close the browser before other tests: no asyncio test can run while Playwright's loop lives.

    It is no fixture of a module, as its start and JupyterLab's pages take seconds of CPU.
    """
    try:
        yield
    finally:
        chromium = item.config.stash.get(CHROMIUM, None)
        here = nextitem is not None and Path(__file__).parent in nextitem.path.parents
        if chromium is not None and not here:
            chromium.close()


@pytest.fixture
def window(chromium: Chromium) -> BrowserContext:
    return chromium.window


@pytest.fixture
def browser(window: BrowserContext) -> Browser:
    assert window.browser is not None
    return window.browser


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for the scripted runtime."""
    return write_script_folder(tmp_path_factory.mktemp("models") / "script")


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[BusyCell]:
    cell = BusyCell(tmp_path)
    yield cell
    cell.end()


@pytest.fixture
def open_notebook(
    lab: Lab, chromium: Chromium, window: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[OpenNotebook]:
    """Opens notebooks in JupyterLab; fails if a page throws or asks another host for anything."""
    opened: list[Notebook] = []
    kept: list[Notebook] = []
    empty_labs = chromium.empty_labs
    faults: list[str] = []
    unwatch: list[Callable[[], None]] = []
    failed = request.session.testsfailed

    def watch(page: Page, *, classic: bool) -> None:
        own = urlsplit(lab.url).netloc

        def on_error(error: Error) -> None:
            # Notebook 7 throws now and then by itself, JupyterLab when it ends a kernel that it
            # asks something; what is ours runs from a blob.
            relevant = not classic and "Canceled future" not in str(error)
            if relevant or "blob:" in (error.stack or ""):
                faults.append(f"thrown in the page: {error}")

        def on_request(sent: Request) -> None:
            address = urlsplit(sent.url)
            if address.scheme in ("http", "https", "ws", "wss") and address.netloc != own:
                faults.append(f"asked for {sent.url}")

        page.on("pageerror", on_error)
        page.on("request", on_request)
        unwatch.append(lambda: page.remove_listener("pageerror", on_error))
        unwatch.append(lambda: page.remove_listener("request", on_request))

    def open_(
        cells: list[str] | str,
        *,
        width: int = 1100,
        height: int = 900,
        classic: bool = False,
        fresh: bool = False,
    ) -> Notebook:
        """Opens a new notebook with these cells, or an existing one of that name.

        `fresh` loads JupyterLab for this notebook alone, as a change of its settings asks for.
        """
        name = f"{request.node.name.partition('[')[0]}-{len(opened)}.ipynb"
        if isinstance(cells, str):
            name = cells
        else:
            lab.write(name, cells)
        alone = classic or fresh
        loaded = bool(empty_labs) and not alone
        page = empty_labs.pop() if loaded else window.new_page()
        page.set_viewport_size(ViewportSize(width=width, height=height))
        watch(page, classic=classic)
        notebook = Notebook(page, lab.address(name, classic=classic), loaded=loaded)
        opened.append(notebook)
        if not alone:
            kept.append(notebook)
        return notebook

    yield open_
    for notebook in opened:
        notebook.close()
    for notebook in opened:
        if notebook in kept and request.session.testsfailed == failed:
            notebook.leave()
            empty_labs.append(notebook.page)
        else:
            notebook.page.close()
    for forget in unwatch:
        forget()
    assert not faults

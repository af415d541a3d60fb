"""Tries the chat in hosts beyond JupyterLab for one user, in Chromium, and writes docs/hosts.md.

``make hosts`` runs it in a virtual environment of its own (`requirements.txt`), since these hosts
are too much for the tests' environment. ``python -m tests.hosts.check marimo shiny`` tries some.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anywidget
import nbformat
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from ..browser.colours import expect_legible
from ..widget.script_folder import write_script_folder
from .collaboration import PACKAGES as COLLABORATION
from .collaboration import check_collaboration
from .hub import PACKAGES as HUB
from .hub import check_hub
from .table import PAGE, Result, write_page

APPS = Path(__file__).parent / "apps"
BIN = Path(sys.executable).parent
DEADLINE_S = 60
SCRIPT = {"text": "word ", "repeat": 1000, "pace_s": 0.03, "load_s": 8}
expect.set_options(timeout=DEADLINE_S * 1000)


Steps = Callable[[Browser, str, Result], None]


@dataclass(frozen=True)
class Host:
    """How to serve the app of a host, where its page is, and what is tried there."""

    command: tuple[str, ...]
    packages: tuple[str, ...]
    steps: Steps
    path: str = ""


@contextmanager
def served(host: Host, folder: Path) -> Iterator[str]:
    """The app's address, while it is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, *arguments = (part.format(port=port) for part in host.command)
    environment = {
        **os.environ,
        "MODEL": str(write_script_folder(folder / "script")),
        "SCRIPT": json.dumps(SCRIPT),
        "MLC_WIDGET_HOME": str(folder / "home"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    url = f"http://127.0.0.1:{port}/{host.path}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / command, *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(url, server)
            yield url
        except BaseException:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=DEADLINE_S).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{url} is not served")


def new_page(browser: Browser, url: str, scheme: str = "light") -> Page:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    # Panel takes anywidget's own front end from a CDN, as VS Code and Colab do.
    source = Path(anywidget.__file__).parents[4] / "share/jupyter/nbextensions/anywidget/index.js"
    page.route("https://unpkg.com/anywidget*/**", lambda route: route.fulfill(path=source))
    page.goto(url)
    return page


def ask(page: Page) -> None:
    composer = page.locator(".mlcw-composer textarea")
    expect(composer).to_be_enabled()
    composer.fill("Hello")
    composer.press("Enter")


def length(page: Page) -> int:
    return len(page.locator(".mlcw-assistant .mlcw-body").last.inner_text())


def check_chat(browser: Browser, url: str, result: Result) -> None:
    """The chat, a growing reply, Stop, and a second page beside the first, light and dark."""
    page = new_page(browser, url)
    if result.host == "marimo":  # whose page is there while the model loads
        expect(page.locator(".mlcw-load").get_by_role("progressbar")).to_be_visible()
    chat = page.locator(".mlcw-chat")
    expect(chat).to_be_visible()
    assert chat.evaluate("node => getComputedStyle(node).borderTopStyle") == "solid"  # its style
    result.passed("shown")
    expect(page.locator(".mlcw-dot").first).to_have_attribute("data-mlcw-state", "ready")
    ask(page)
    expect(page.locator(".mlcw-assistant .mlcw-body")).to_contain_text("word word")
    first = length(page)
    page.wait_for_function(
        """first => {
            const all = (root) => [...root.querySelectorAll('*')].flatMap((node) =>
                node.shadowRoot ? [node, ...all(node.shadowRoot)] : [node]);
            return all(document).some((node) =>
                node.matches('.mlcw-body') && node.innerText.length > first + 20);
        }""",
        arg=first,
    )
    result.passed("streams")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".mlcw-facts").last).to_contain_text("Stopped")
    result.passed("stops")
    other = new_page(browser, url, "dark")
    expect(other.locator(".mlcw-chat")).to_be_visible()
    ask(other)
    expect(other.locator(".mlcw-assistant .mlcw-body").last).to_contain_text("word word")
    result.passed("two pages")
    if result.host == "marimo":  # which has a theme of its own
        for shown, dark in ((page, False), (other, True)):
            colours = expect_legible(shown.locator(".mlcw").last, dark=dark)
            assert "PT Sans" in colours["font"], colours


def check_streamlit(browser: Browser, url: str, result: Result) -> None:
    """It has no widgets, and says so; the engine streams into its own chat elements."""
    page = new_page(browser, url)
    expect(page.get_by_text("Streamlit cannot show Jupyter widgets")).to_be_visible()
    page.get_by_placeholder("Message").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("stChatMessage")).to_contain_text("word word")
    result.passed("streams")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    result.passed("stops")


APP_HOSTS = {
    "marimo": Host(
        ("marimo", "run", "--headless", "--no-token", "-p{port}", "marimo_app.py"),
        ("marimo",),
        check_chat,
    ),
    "Voilà": Host(
        ("voila", "--no-browser", "--port={port}", "notebook.ipynb"), ("voila",), check_chat
    ),
    "Shiny for Python": Host(
        ("shiny", "run", "--port={port}", "shiny_app.py"), ("shiny", "shinywidgets"), check_chat
    ),
    "Panel": Host(
        ("panel", "serve", "--port={port}", "panel_app.py"),
        ("panel", "ipywidgets-bokeh"),
        check_chat,
        "panel_app",
    ),
    "Streamlit": Host(
        (
            *("streamlit", "run", "--server.headless=true", "--server.port={port}"),
            *("--browser.gatherUsageStats=false", "streamlit_app.py"),
        ),
        ("streamlit",),
        check_streamlit,
    ),
}


def check_app(host: Host, browser: Browser, folder: Path, result: Result) -> None:
    """An app of ours, served by a host."""
    for app in APPS.iterdir():
        if app.is_file():
            shutil.copy(app, folder)
    cells = (APPS / "notebook.py").read_text().split("# %%\n")[1:]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    nbformat.write(notebook, folder / "notebook.ipynb")
    with served(host, folder) as url:
        host.steps(browser, url, result)


Check = Callable[[Browser, Path, Result], None]
HOSTS: dict[str, tuple[tuple[str, ...], Check]] = {
    "JupyterLab with collaboration": (COLLABORATION, check_collaboration),
    "JupyterHub": (HUB, check_hub),
    **{name: (host.packages, partial(check_app, host)) for name, host in APP_HOSTS.items()},
}


def check(name: str, browser: Browser) -> Result:
    packages, steps = HOSTS[name]
    result = Result(name, ", ".join(f"{p} {version(p)}" for p in packages))
    with tempfile.TemporaryDirectory() as made:
        try:
            steps(browser, Path(made), result)
        except (AssertionError, Error, RuntimeError) as error:
            traceback.print_exc()
            result.fault = str(error).strip().splitlines()[0]
        finally:
            for context in browser.contexts:
                context.close()
    return result


def main(names: list[str]) -> None:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    results = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        for name in names or HOSTS:
            results.append(check(name, browser))
            print(name, *results[-1].done, results[-1].fault, flush=True)
        browser.close()
    if not names:
        write_page(results)
        print(f"wrote {PAGE}")
    if any(result.fault for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])

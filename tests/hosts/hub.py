"""Two users of a JupyterHub, each in a server of their own; one account of the system runs all."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
from playwright.sync_api import Browser, Page, expect

from ..browser.chat import CHAT, LONG, create, expect_growing, start_chat
from ..browser.lab import DEADLINE_MS, START_S, Notebook
from ..widget.script_folder import write_script_folder
from .table import Result

PACKAGES = ("jupyterhub", "jupyterlab")
PROXY = Path(sys.prefix) / "node_modules" / ".bin" / "configurable-http-proxy"
NAME = "chat.ipynb"


class Hub:
    """A JupyterHub of users with one password and folders of their own; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        self._homes = folder / "home"
        self._password = secrets.token_hex(16)
        with ExitStack() as sockets:
            free = [sockets.enter_context(socket.socket()) for _ in range(3)]
            for one in free:
                one.bind(("127.0.0.1", 0))
            addresses = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in free]
        self.url = addresses[0]
        config = {
            "JupyterHub": {
                "authenticator_class": "dummy",
                "spawner_class": "simple",
                "bind_url": self.url,
                "hub_bind_url": addresses[1],
                "db_url": f"sqlite:///{folder / 'hub.sqlite'}",
                "cookie_secret_file": str(folder / "cookie_secret"),
            },
            "ConfigurableHTTPProxy": {
                "api_url": addresses[2],
                "command": [str(PROXY)],
                "pid_file": str(folder / "proxy.pid"),
            },
            "Authenticator": {"allow_all": True},
            "DummyAuthenticator": {"password": self._password},
            "SimpleLocalProcessSpawner": {"home_dir_template": str(self._homes / "{username}")},
            "Spawner": {
                "cmd": [sys.executable, "-m", "jupyterhub.singleuser"],
                "args": ["--allow-root", "--LabApp.expose_app_in_browser=True"],
                "default_url": "/lab",
                "start_timeout": START_S,
                "http_timeout": START_S,
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(folder / "config.json")],
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/hub/health", timeout=START_S).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"JupyterHub did not start:\n{self.log()}")

    def log(self) -> str:
        """The end of what it and its users' servers have printed."""
        return self._log.read_text()[-5000:]

    def write(self, user: str, theme: str, cells: list[str]) -> None:
        """Make a user's folder, with a notebook of these cells and JupyterLab's theme."""
        home = self._homes / user
        settings = home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
        config = home / ".jupyter/labconfig"
        for made in (settings, config):
            made.mkdir(parents=True)
        # No news from the net, and no look for what is to be built.
        (settings / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}'
        )
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
        (config / "page_config.json").write_text('{"buildAvailable": false, "buildCheck": false}')
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, home / NAME)

    def open(self, browser: Browser, user: str) -> Notebook:
        """The notebook, in a window in which the user has logged in."""
        context = browser.new_context()
        context.set_default_timeout(DEADLINE_MS)
        page = context.new_page()
        page.goto(f"{self.url}/hub/login")
        page.locator("#username_input").fill(user)
        page.locator("#password_input").fill(self._password)
        page.locator("#login_submit").click()
        # The hub shows a page of its own until the user's server has started.
        page.wait_for_url(f"{self.url}/user/{user}/lab**", timeout=START_S * 1000)
        return Notebook(page, f"{self.url}/user/{user}/doc/tree/{NAME}")

    def close(self) -> None:
        """End it, its proxy and its users' servers."""
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # The hub may end before servers that it has asked to end, which then go on.
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def running(folder: Path) -> Iterator[Hub]:
    """A hub, whose log is printed if something fails."""
    hub = Hub(folder)
    try:
        yield hub
    except BaseException:
        print(hub.log(), file=sys.stderr)
        raise
    finally:
        hub.close()


def check_hub(browser: Browser, folder: Path, result: Result) -> None:
    """Each user has a chat that streams and stops, and nothing of the other's."""
    model = write_script_folder(folder / "script")
    with running(folder) as hub:
        notebooks = []
        chats = []
        for user, theme in (("ada", "Light"), ("grace", "Dark")):
            hub.write(user, f"JupyterLab {theme}", [create(model, **LONG), CHAT])
            notebook = hub.open(browser, user)
            notebook.run(0)
            notebook.expect_done(0)
            notebooks.append(notebook)
            chats.append(start_chat(notebook))
        ada, grace = chats
        result.passed("shown")
        ada.ask("I am Ada")
        grace.ask("I am Grace")
        for chat in chats:
            expect_growing(chat)
        result.passed("streams")
        ada.stop.click()
        expect(ada.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")
        expect_growing(grace)  # which goes on
        grace.stop.click()
        expect(grace.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")
        result.passed("stops")
        for chat, own in ((ada, "I am Ada"), (grace, "I am Grace")):
            expect(chat.root.locator(".mlcw-user .mlcw-body")).to_have_text([own])
        for notebook, other in zip(notebooks, ("grace", "ada"), strict=True):
            expect_alone(notebook.page, hub, other)
        result.passed("two pages")
        for notebook in notebooks:
            notebook.close()


def expect_alone(page: Page, hub: Hub, other: str) -> None:
    """A user's server has their notebook only, and the other's server is closed to them."""
    sessions = page.evaluate(
        """async () => {
            await window.jupyterapp.serviceManager.sessions.refreshRunning();
            return [...window.jupyterapp.serviceManager.sessions.running()].map((one) => one.path);
        }"""
    )
    assert sessions == [NAME], sessions
    answer = page.request.get(f"{hub.url}/user/{other}/api/contents/{NAME}")
    assert answer.status in (403, 404), f"{answer.status} for {urlsplit(answer.url).path}"

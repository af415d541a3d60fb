"""A real JupyterLab for the tests, and a notebook in it, driven as a user drives it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import Locator, Page, expect

from ..kernels import TYPES_WHEN_USED, socket_folder

DEADLINE_MS = 120_000
START_S = 300  # JupyterLab's first start in a new environment compiles all its modules
expect.set_options(timeout=DEADLINE_MS / 2)  # a page may be slow on a machine that is busy


class Lab:
    """A JupyterLab server with directories of its own, which ends with `close`."""

    def __init__(self, home: Path) -> None:
        self.root = home / "notebooks"
        self._settings = home / "settings"
        self._token = secrets.token_hex(16)
        for folder in (self.root, self._settings):
            folder.mkdir(parents=True)
        config = home / "config" / "labconfig"
        config.mkdir(parents=True)
        # Otherwise every page has the server look for what is to be built, which runs yarn.
        (config / "page_config.json").write_text('{"buildAvailable": false, "buildCheck": false}')
        ipython = home / "ipython" / "profile_default"
        ipython.mkdir(parents=True)
        lines = f"c.IPKernelApp.exec_lines = [{TYPES_WHEN_USED!r}]\n"
        (ipython / "ipython_kernel_config.py").write_text(lines)
        posix = os.name == "posix"
        self._runtime = Path(socket_folder()) if posix else home / "runtime"
        self.set("apputils-extension", "notification", fetchNews="false", checkForUpdates=False)
        environment = {
            **os.environ,
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(self._settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "MLC_WIDGET_HOME": str(home / "mlc_widget"),
        }
        self._log = (home / "jupyterlab.log").open("w")
        self._server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"),
                *("--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True"),
                *(f"--IdentityProvider.token={self._token}", f"--ServerApp.root_dir={self.root}"),
                "--JupyterNotebookApp.expose_app_in_browser=True",
                # A kernel's TCP port may be taken between its choice and its use.
                *(["--KernelManager.transport=ipc"] if posix else []),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        file = self._runtime / f"jpserver-{self._server.pid}.json"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                break
            if file.is_file() and file.stat().st_size:
                url = str(json.loads(file.read_text())["url"])
                # The file is there shortly before the server listens.
                with (
                    contextlib.suppress(urllib.error.URLError),
                    urllib.request.urlopen(f"{url}api?token={self._token}", timeout=START_S),
                ):
                    return url
            time.sleep(0.05)
        self.close()
        raise RuntimeError(f"JupyterLab did not start:\n{Path(self._log.name).read_text()}")

    def set(self, extension: str, plugin: str, **settings: Any) -> None:
        """Change a setting of JupyterLab; pages opened from then on have it."""
        folder = self._settings / (extension if "/" in extension else f"@jupyterlab/{extension}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{plugin}.jupyterlab-settings").write_text(json.dumps(settings))

    def unset(self, extension: str, plugin: str) -> None:
        """Give a setting its default again."""
        folder = self._settings / (extension if "/" in extension else f"@jupyterlab/{extension}")
        (folder / f"{plugin}.jupyterlab-settings").unlink()

    def write(self, name: str, cells: Sequence[str]) -> None:
        """Make a notebook of code cells."""
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        (self.root / name).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, self.root / name)

    def address(self, name: str, *, classic: bool = False) -> str:
        """Where a notebook opens: alone in JupyterLab, in a workspace of its own, or in Notebook 7.

        Args:
            name: The notebook's path.
            classic: Open it in Notebook 7, which the same server serves.
        """
        if classic:
            return f"{self.url}notebooks/{name}?token={self._token}"
        return f"{self.url}doc/workspaces/{Path(name).stem}/tree/{name}?token={self._token}&reset"

    def close(self) -> None:
        """End the server and its kernels."""
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()
        shutil.rmtree(self._runtime, ignore_errors=True)


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Page, address: str, *, loaded: bool = False) -> None:
        """Open it, and wait for its kernel.

        Args:
            page: A tab of the browser.
            address: The notebook's address.
            loaded: The page is JupyterLab already, with nothing open: that spares it the seconds
                of CPU that loading it again takes.
        """
        self.page = page
        self.path = re.split("/tree/|/notebooks/", urlsplit(address).path)[-1]
        self._address = address
        if loaded:
            page.evaluate(
                "async path => void await"
                " window.jupyterapp.commands.execute('docmanager:open', {path})",
                self.path,
            )
        else:
            page.goto(address)
        expect(self.cell(0)).to_be_visible(timeout=DEADLINE_MS)
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Wait until the kernel is there and idle."""
        self.page.evaluate(
            """async () => {
                const context = window.jupyterapp.shell.currentWidget.sessionContext;
                await context.ready;
                await context.session.kernel.info;
            }"""
        )
        self.page.wait_for_function(
            "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
            timeout=DEADLINE_MS,
        )

    def reload(self) -> None:
        """Save the notebook and load the page again; the kernel goes on."""
        self.save()
        self.page.goto("about:blank")
        self.page.goto(self._address.replace("&reset", ""))
        expect(self.cell(0)).to_be_visible(timeout=DEADLINE_MS)

    def reload_widgets(self) -> None:
        """As `reload`, until there is a widget of ours.

        JupyterLab's widget manager takes a kernel whose widgets it cannot list for one that has
        none, and then writes "model not found" for good: about one reload of a hundred on a machine
        that is busy. Users reload the page, too; docs/troubleshooting.md says so.
        """
        for _ in range(3):
            self.reload()
            widget = self.page.locator(".jp-OutputArea .mlcw").first
            given_up = self.page.get_by_text("Error displaying widget: model not found").first
            expect(widget.or_(given_up).first).to_be_attached(timeout=DEADLINE_MS)
            if widget.count():
                return

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def run(self, index: int) -> None:
        """Run a cell as a user does; does not wait for it."""
        self.cell(index).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Shift+Enter")

    def prompt(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-InputPrompt")

    def expect_running(self, index: int) -> None:
        expect(self.prompt(index)).to_have_text("[*]:")

    def expect_done(self, index: int, *, ok: bool = True) -> None:
        expect(self.prompt(index)).to_have_text(re.compile(r"\[\d+\]:"), timeout=DEADLINE_MS)
        errors = self.output(index).locator('[data-mime-type="application/vnd.jupyter.stderr"]')
        if ok and errors.count():
            raise AssertionError(errors.first.inner_text())

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-OutputArea")

    def close(self) -> None:
        """End the kernel, and the engine's worker with it."""
        self.page.evaluate(
            "window.jupyterapp.serviceManager.sessions.shutdownAll().catch(() => undefined)"
        )

    def leave(self) -> None:
        """Close the notebook, saved or not; JupyterLab stays open."""
        self.page.evaluate(
            """() => {
                const notebook = window.jupyterapp.shell.currentWidget;
                notebook.context.model.dirty = false;
                notebook.close();
            }"""
        )
        expect(self.page.locator(".jp-Notebook")).to_have_count(0)


class BusyCell:
    """A cell that keeps the kernel busy until it is told to end."""

    def __init__(self, folder: Path, name: str = "released") -> None:
        """A file of that name in the folder ends it."""
        self._released = folder / name
        self.code = (
            "import pathlib, time\n"
            f"while not pathlib.Path({str(self._released)!r}).exists(): time.sleep(0.01)"
        )

    def end(self) -> None:
        """Let the cell end."""
        self._released.touch()

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets import default

from mlc_widget.api.linked_engine import LinkedEngine

from ..kernels import QUICK_KERNEL, LocalNotebookClient
from ..widget.script_folder import write_script_folder

Execute = Callable[..., nbformat.NotebookNode]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for the scripted runtime."""
    return write_script_folder(tmp_path_factory.mktemp("models") / "script")


@pytest.fixture(scope="session")
def tools_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose template knows tools."""
    return write_script_folder(tmp_path_factory.mktemp("models") / "tools", tools=True)


class Page(LocalNotebookClient):
    """Runs cells as a page does: it gives their ids, and can answer `input`.

    The kernel is killed at the end, as nobody looks at how it ends. Those of batch runs and of
    tests/notebooks are shut down, which takes half a second of CPU.
    """

    @default("shutdown_kernel")
    def _at_once(self) -> str:
        return "immediate"

    async def async_start_new_kernel_client(self) -> Any:
        client = await super().async_start_new_kernel_client()
        client.session.metadata["cellId"] = "a-cell"
        client.allow_stdin = True
        return client


@pytest.fixture
def execute() -> Execute:
    """Runs cells in a real kernel, and gives the notebook with their outputs.

    With ``batch=True`` as nbclient and papermill do, otherwise as a page does.
    """

    def run(*cells: str, errors: bool = False, batch: bool = False) -> nbformat.NotebookNode:
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        kind = LocalNotebookClient if batch else Page
        kind(
            notebook,
            timeout=60,
            kernel_name="python3",
            allow_errors=errors,
            extra_arguments=[*QUICK_KERNEL],
        ).execute()
        return notebook

    return run


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with the extension loaded, in this process."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "mlc_widget")
    yield shell
    for value in list(shell.user_ns.values()):
        if isinstance(value, LinkedEngine):
            value.link.submit(value.link.terminate()).result(30)
    InteractiveShell.clear_instance()


@pytest.fixture
def said(shell: InteractiveShell) -> Callable[[str], str]:
    """What a cell prints."""

    def run(cell: str) -> str:
        with capture_output() as captured:
            shell.run_cell(cell)
        return str(captured.stdout + captured.stderr)

    return run

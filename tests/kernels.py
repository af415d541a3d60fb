"""Kernels for tests, which have sockets of their own.

Jupyter looks for TCP ports that are free, and the kernel opens them later: on a busy machine,
another process has taken one now and then.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any, Final

from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import default

TYPES_WHEN_USED: Final = (
    "setattr(__import__('importlib').import_module('mlc_widget.api.responses'),"
    " 'warm_up', lambda: None)"
)
"""A line for a kernel or a program to begin with: OpenAI's types are imported when they are used.

Otherwise that is done while a model loads. It takes a second of CPU and more, and few tests ask for
a response that has them. The kernels of tests/notebooks do without this line.
"""
QUICK_KERNEL: Final = (f"--IPKernelApp.exec_lines={TYPES_WHEN_USED}",)
"""Arguments of a kernel that begins with it."""


def as_markdown(notebook: NotebookNode, **options: Any) -> str:
    """What nbconvert exports; imported here, as it takes a second, which few tests need."""
    from nbconvert import MarkdownExporter

    return str(MarkdownExporter(**options).from_notebook_node(notebook)[0])


def socket_folder() -> str:
    """A new folder whose path is short enough for sockets: 103 bytes with the name, on any system.

    Its maker removes it.
    """
    short = len(os.fsencode(tempfile.gettempdir())) < 40
    return tempfile.mkdtemp(prefix="kernel-", dir=None if short else "/tmp")


class LocalKernelManager(KernelManager):
    """Starts a kernel whose sockets are in a folder of its own."""

    def __init__(self, **options: Any) -> None:
        if os.name == "posix":
            folder = socket_folder()
            options |= {"transport": "ipc", "connection_file": os.path.join(folder, "c.json")}
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(**options)


class AsyncLocalKernelManager(LocalKernelManager, AsyncKernelManager):
    """The same, awaited."""


class LocalNotebookClient(NotebookClient):
    """Runs a notebook in such a kernel."""

    @default("kernel_manager_class")
    def _local(self) -> type[AsyncKernelManager]:
        return AsyncLocalKernelManager

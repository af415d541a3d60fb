"""Who runs the cells: a user at a page, a user at a console, or a program."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

Client: TypeAlias = Literal["page", "console", "batch"]

_JUPYTER_CLIENT_ID = re.compile(r"_\d+_\d+$")


def client_of(shell: Any) -> Client:
    """The client that sent the cell that is running, or about to run.

    Pages (JupyterLab, VS Code …) name the cell, or have their own form of message ids. Programs
    that use Python's jupyter_client show no output that changes after its cell has ended: they are
    a Jupyter console or, if nobody can answer `input`, something that runs whole notebooks
    (nbclient, papermill, `jupyter execute`, `nbconvert --execute`).
    """
    kernel: Any = getattr(shell, "kernel", None)
    try:
        request = kernel.get_parent("shell")
        message_id = str(request["header"]["msg_id"])
    except (AttributeError, KeyError, TypeError):
        return "page"
    if "cellId" in request.get("metadata", {}) or not _JUPYTER_CLIENT_ID.search(message_id):
        return "page"
    return "console" if request.get("content", {}).get("allow_stdin") else "batch"

"""Who runs the cells: a user at a page, a user at a console, or a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

Client: TypeAlias = Literal["page", "console", "batch"]

_JUPYTER_CLIENT_ID = re.compile(r"_\d+_\d+$")
_ASKS = re.compile(r"get_ipython\(\)\.run_(cell_magic\('chat'|line_magic\('mlc', 'explain\b)")


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


class WaitForReplies:
    """An input transformer that lets cells with `%%chat` await their reply where needed.

    If nothing can be shown after a cell has ended, the cell must end with its reply. It awaits it,
    so that the notebook's functions can be called in the meantime.

    Args:
        shell: The IPython shell.
        statement: The statement that awaits the reply.
        tell: Called before each cell with whether it will await its reply.
    """

    def __init__(self, shell: Any, statement: str, tell: Callable[[bool], object]) -> None:
        self._shell, self._statement, self._tell = shell, statement, tell

    def __call__(self, lines: Sequence[str]) -> list[str]:
        """The cell's lines, followed by the statement if it is needed."""
        asks = any(_ASKS.match(line) for line in lines)
        waits = asks and self._shell.autoawait and client_of(self._shell) != "page"
        self._tell(waits)
        return [*lines, f"{self._statement}\n"] if waits else list(lines)

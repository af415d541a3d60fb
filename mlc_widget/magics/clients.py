"""Who runs the cells: somebody at a page, somebody at a console, or nobody."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

Client: TypeAlias = Literal["page", "console", "batch"]

_JUPYTER_CLIENT_ID = re.compile(r"_\d+_\d+$")
_ASKS = re.compile(r"get_ipython\(\)\.run_(cell_magic\('chat'|line_magic\('mlc', 'explain\b)")


def client_of(shell: Any) -> Client:
    """Who sent the cell that runs, or is about to.

    Pages (JupyterLab, VS Code …) name the cell, or number their messages in a way of their own.
    Programs that use Python's jupyter_client show no output that changes after its cell has ended:
    a console of Jupyter's, or, where nobody can answer `input`, what runs a notebook as a batch
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
    """An input transformer: cells that ask the model something await the reply, if it must be.

    Where nothing can be shown after a cell has ended, the cell ends with its reply. It awaits, so
    that the notebook's functions can be called meanwhile.

    Args:
        shell: IPython's.
        statement: What awaits the reply.
        tell: Called before each cell with whether it will await its reply.
    """

    def __init__(self, shell: Any, statement: str, tell: Callable[[bool], object]) -> None:
        self._shell, self._statement, self._tell = shell, statement, tell

    def __call__(self, lines: Sequence[str]) -> list[str]:
        """The cell's lines, with the statement after them where it is needed."""
        asks = any(_ASKS.match(line) for line in lines)
        waits = asks and self._shell.autoawait and client_of(self._shell) != "page"
        self._tell(waits)
        return [*lines, f"{self._statement}\n"] if waits else list(lines)

"""The conversation that the saved notebook holds in the running cell, from before a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.history import MAX_BYTES, NOTHING_SAID, chats_of_outputs, read_history
from mlc_widget.widget.session import ChatSession


class SavedChat:
    """Offers an empty chat the conversation that its cell showed when the notebook was saved.

    JupyterLab and Notebook 7 tell the kernel which cell they run, and Jupyter's server tells it
    which notebook it is for. Elsewhere nothing is offered.

    Args:
        session: The chat.
    """

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        self._saved = NOTHING_SAID
        self.settings: Any = None
        """The settings that the notebook keeps with the conversation (`KeptSettings`)."""

    @property
    def count(self) -> int:
        """The number of messages that are offered; 0 once the chat has messages of its own."""
        return 0 if self._session.state.messages else len(self._saved.messages)

    def look(self) -> bool:
        """Read the notebook of the running cell; returns whether it holds a conversation."""
        for chat in _saved_chats():
            self.settings = chat.get("settings")
            try:
                found = read_history(chat)
            except BadRequestError:  # anybody may have written it
                continue
            if found.messages:
                self._saved = found
        return self.count > 0

    def take_up(self) -> None:
        """Continue the saved conversation. On the I/O thread.

        Raises:
            BadRequestError: nothing is offered.
        """
        if not self.count:
            raise BadRequestError("take_up: the notebook holds no conversation for this chat.")
        self._session.take_up(self._saved)


def _saved_chats() -> Iterator[JSONDict]:
    """The conversations in the outputs of the running cell, as the notebook's file has them."""
    path, cell_id = _notebook_path(), _cell_id()
    if path is None or cell_id is None:
        return
    try:
        if path.stat().st_size > MAX_BYTES:
            return
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell.get("id") == cell_id]
        yield from (chat for cell in cells for chat in chats_of_outputs(cell))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # not a notebook, or not one of ours


def _notebook_path() -> Path | None:
    name = os.environ.get("JPY_SESSION_NAME", "")
    path = Path(name)
    return path if name and path.is_absolute() and path.is_file() else None


def _cell_id() -> str | None:
    from IPython import get_ipython

    kernel: Any = getattr(get_ipython(), "kernel", None)
    try:
        found = kernel.get_parent("shell")["metadata"]["cellId"]
    except (AttributeError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None

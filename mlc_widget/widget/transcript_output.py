"""The transcript of a widget in the saved notebook: an output in Markdown.

Updating the widget's own output would make the host render the widget again, so the transcript is
an output of its own, below the widget and what stands in for it (`stand_in`), updated by its
display id after each reply. The widget's style sheet hides it wherever the widget itself is shown.
Elsewhere (GitHub, nbconvert's HTML, JupyterLab without a kernel) readers see the transcript.
"""

from __future__ import annotations

import logging
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

from mlc_widget.api.clients import client_of
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.stand_in import show_widget

_TURN_S = 10.0
_PAGE_LENGTH = 64
_log = logging.getLogger(__name__)
_shown: weakref.WeakSet[TranscriptOutput] = weakref.WeakSet()
_watched: weakref.WeakSet[Any] = weakref.WeakSet()


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, and so may have a page."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def in_console() -> bool:
    """Whether the cell comes from a Jupyter console, which shows text only, and only once."""
    from IPython import get_ipython

    return client_of(get_ipython()) == "console"


class TranscriptOutput:
    """An output that is shown below a widget and replaced when the widget's content changes.

    A page that was reloaded no longer knows the display id (js/src/transcript-output.ts): it is
    notified of each change, asks for the output if it lacks it, and puts it in its place. Of the
    pages of several users who share a notebook, one at a time may do so: each replaces the output
    by a new one, and two at once would leave two.

    Args:
        read: Makes the output's MIME bundle; called on any thread.
        tell: Sends a message to the page; any thread may call it.
    """

    def __init__(self, read: Callable[[], JSONDict], tell: Callable[[JSONDict], object]) -> None:
        self._read = read
        self._tell = tell
        self._id = uuid.uuid4().hex
        self._rev = 0
        self._visible = False
        self._stale = False
        self._writer = ""
        self._turn_ends = 0.0

    def intents(self) -> dict[str, Callable[[JSONDict], object]]:
        """The handlers of the page's intents."""
        return {"kept": lambda _: self._tell_rev(), "transcript": self._tell_output}

    def _tell_rev(self) -> None:
        if self._visible:
            self._tell({"type": "kept", "id": self._id, "rev": self._rev})

    def _tell_output(self, intent: JSONDict) -> None:
        page, now = str(intent.get("page"))[:_PAGE_LENGTH], time.monotonic()
        if page != self._writer and now < self._turn_ends:
            return  # another page is about to write it, and this one will get it from there
        self._writer, self._turn_ends = page, now + _TURN_S
        output = {"output_type": "display_data", "data": self._read(), "metadata": self._mark}
        self._tell(
            {"type": "transcript", "page": page, "id": self._id, "rev": self._rev, "output": output}
        )

    @property
    def _mark(self) -> JSONDict:
        return {"mlc_widget": {"transcript": self._id, "rev": self._rev}}

    def show_below(self, widget: object, sentence: str) -> None:
        """Display a widget below the running cell, and the transcript below that.

        Args:
            widget: The widget.
            sentence: How to get it back in a notebook that is opened again.
        """
        show_widget(widget, sentence)
        self.show()

    def show(self) -> None:
        """Display it below the running cell."""
        from IPython.display import display

        rev = self._rev
        display(  # type: ignore[no-untyped-call]
            self._read(), raw=True, display_id=self._id, metadata=self._mark
        )
        self._visible = True
        if self._rev != rev:  # it changed meanwhile, and no client got the update
            self._send()
        _shown.add(self)
        _watch_cells()

    def update(self) -> None:
        """Replace the output, from any thread."""
        self._rev += 1
        if not self._visible:
            return
        # A client that only processes messages of the running cell, such as nbclient, gets it when
        # the next cell ends.
        self._stale = True
        try:
            self._send()
            self._tell_rev()
        except Exception:  # the engine must not miss a beat for it
            _log.exception("a transcript could not be updated")

    def refresh(self) -> None:
        """Within a cell, replace the output if it was changed outside of one."""
        if self._stale:
            self._stale = False
            self._send()

    def _send(self) -> None:
        from IPython import get_ipython

        publisher = get_ipython().display_pub
        content = {
            "data": self._read(),
            "metadata": self._mark,
            "transient": {"display_id": self._id},
        }
        # Not by `publish`, which waits for the user's stdout first.
        publisher.session.send(
            publisher.pub_socket,
            "update_display_data",
            content,
            parent=publisher.parent_header,
            ident=publisher.topic,
        )


def _watch_cells() -> None:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and shell not in _watched:
        _watched.add(shell)
        shell.events.register("post_run_cell", _after_cell)


def _after_cell(*_: object) -> None:
    for output in list(_shown):
        try:
            output.refresh()
        except Exception:
            _log.exception("a transcript could not be updated")

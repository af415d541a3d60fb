"""Where a widget's messages go: to the page of the session in which the widget was made.

A Jupyter kernel has one session, and any thread may send to its pages. A web framework serves many
sessions from one process, and what it sends belongs to the session that is current on the sending
thread. Ours is the engine's, which has none.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class PageSession(Protocol):
    """Runs what sends to a page."""

    def run(self, send: Callable[[], None]) -> None:
        """Call `send` in the session, now or soon, in the order of these calls."""


class _Direct:
    """Any thread may send."""

    def run(self, send: Callable[[], None]) -> None:
        send()


class _Shiny:
    """Shiny for Python: sends on the session's event loop, and at the end of a reactive flush."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Callable[[], None]] = []

    def run(self, send: Callable[[], None]) -> None:
        self._waiting.append(send)
        if len(self._waiting) == 1 and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        from shiny import reactive
        from shiny.session import session_context

        try:
            async with reactive.lock():
                with session_context(self._session):
                    while self._waiting:
                        self._waiting[0]()
                        self._waiting.pop(0)
                await reactive.flush()
        except Exception:  # the session has ended, for example
            self._waiting.clear()
            _log.debug("a message to the page could not be sent", exc_info=True)


def current_page_session() -> PageSession:
    """The session in which this is called."""
    shiny = sys.modules.get("shiny.session")
    session = None if shiny is None else shiny.get_current_session()
    if session is not None:
        try:
            return _Shiny(session)
        except RuntimeError:  # no event loop runs on this thread
            _log.debug("Shiny's session has no event loop here", exc_info=True)
    return _Direct()


def why_no_page() -> str | None:
    """One sentence if this process serves pages that cannot show widgets."""
    streamlit = sys.modules.get("streamlit")
    if streamlit is None or not streamlit.runtime.exists():
        return None
    return (
        "Streamlit cannot show Jupyter widgets: use st.chat_input, and st.write_stream with the "
        "engine's stream."
    )


def in_marimo() -> bool:
    """Whether a cell of marimo is running."""
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def show_in_marimo(widget: object) -> None:
    """Display a widget below marimo's running cell."""
    sys.modules["marimo"].output.append(widget)

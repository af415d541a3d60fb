"""Ends a worker that can get no more memory, files or threads: another takes its place."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    ModelNotLoadedError,
    ProtocolError,
)
from mlc_widget.engine.system import limits

_POLL_S: Final = 0.5
_TRIES: Final = 3
"""Checks in a row that must fail: a single request may use up memory or files for a moment."""
_TRY_AGAIN_S: Final = 0.2
_EXHAUSTED: Final = 71  # EX_OSERR of sysexits.h
_NOT_THE_PROCESS: Final = (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    ModelNotLoadedError,
    ProtocolError,
)
"""Errors in a request, which do not come from the process's limits."""


def exit_exhausted(why: str) -> NoReturn:
    """End this process at once, needing as few resources as possible."""
    try:
        os.write(2, f"{why} Another worker replaces it.\n".encode())
    finally:
        os._exit(_EXHAUSTED)


class ResourceWatch:
    """Finds out whether a request failed because the process has run out of a resource.

    Args:
        leave: Ends the process; called with the reason, a sentence.
    """

    def __init__(self, leave: Callable[[str], object] = exit_exhausted) -> None:
        self._leave = leave
        self._at_start = self._seen = limits.read_limits()

    def start(self) -> None:
        """Start a thread that checks the limits: the event loop may become unable to do so."""
        thread = threading.Thread(target=self._watch, name="resource-watch", daemon=True)
        thread.start()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_POLL_S)
            try:
                self.look()
            except MemoryError:
                self._leave("This worker can get no more memory.")

    def look(self) -> None:
        """Leave if a limit was lowered since the last check and the process can no longer work."""
        if not limits.lowered(self._seen):
            return
        for _ in range(_TRIES):
            if not limits.lacking():
                self._seen = limits.read_limits()
                return
            threading.Event().wait(_TRY_AGAIN_S)
        self._leave(self._lacks(limits.lacking()))

    def _lacks(self, what: str) -> str:
        lowered = self.lowered()
        return f"This worker can get no more {what}{lowered and ': ' + lowered}."

    def lowered(self) -> str:
        """Which limits are lower than at the start; "" if none is."""
        return limits.lowered(self._at_start)

    async def cause(self, error: BaseException) -> str:
        """A sentence on the missing resource, if it may have caused the error; otherwise ""."""
        if isinstance(error, _NOT_THE_PROCESS):
            return ""
        if lowered := self.lowered():  # possibly the cause; a new process will show it
            return f"This worker may lack what the request needs: {lowered}."
        if not limits.ran_out(error):
            return ""
        for _ in range(_TRIES):
            what = limits.lacking()
            if not what:
                return ""
            await asyncio.sleep(_TRY_AGAIN_S)
        return self._lacks(what)

    async def leave_if_lacking(self, error: BaseException) -> None:
        """End the process if a missing resource may have caused the error."""
        if why := await self.cause(error):
            self._leave(why)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Handle an event loop's exceptions: one may be the reason that nothing is answered."""
        error = context.get("exception")
        loop.default_exception_handler(context)
        if isinstance(error, Exception) and limits.ran_out(error):
            task = loop.create_task(self.leave_if_lacking(error))
            _judging.add(task)
            task.add_done_callback(_judging.discard)


_judging: set[asyncio.Task[None]] = set()

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
"""Times in a row that the process must be found lacking: a request may have taken what there was
for a moment."""
_TRY_AGAIN_S: Final = 0.2
_EXHAUSTED: Final = 71  # EX_OSERR of sysexits.h
_NOT_THE_PROCESS: Final = (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    ModelNotLoadedError,
    ProtocolError,
)
"""Errors that say what is wrong with a request, whatever the process lacks."""


def exit_exhausted(why: str) -> NoReturn:
    """End this process at once, with as little as possible."""
    try:
        os.write(2, f"{why} Another worker takes its place.\n".encode())
    finally:
        os._exit(_EXHAUSTED)


class ResourceWatch:
    """Tells a request that failed because it is too large from a process that can do nothing more.

    Args:
        leave: Called with the reason, a sentence, to end the process.
    """

    def __init__(self, leave: Callable[[str], object] = exit_exhausted) -> None:
        self._leave = leave
        self._at_start = self._seen = limits.read_limits()

    def start(self) -> None:
        """Look at the limits from now on, from a thread: the loop may already be unable to."""
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
        """Leave if a limit was lowered since the last look, so far that nothing can be done."""
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
        """A sentence on what the process lacks, if that is why something failed; else ""."""
        if isinstance(error, _NOT_THE_PROCESS):
            return ""
        if lowered := self.lowered():  # then it may be, and another process will tell
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
        """End the process if that is why something failed."""
        if why := await self.cause(error):
            self._leave(why)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An event loop's exception handler: what fails there may be why nothing is answered."""
        error = context.get("exception")
        loop.default_exception_handler(context)
        if isinstance(error, Exception) and limits.ran_out(error):
            task = loop.create_task(self.leave_if_lacking(error))
            _judging.add(task)
            task.add_done_callback(_judging.discard)


_judging: set[asyncio.Task[None]] = set()

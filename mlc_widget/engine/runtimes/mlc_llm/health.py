"""Notices when a loaded engine dies or hangs; its requests would otherwise wait forever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.engine.runtimes.mlc_llm.threads import ThreadDeaths
from mlc_widget.engine.system.running_step import RunningStep

_POLL_S: Final = 0.2
_QUIET_S: Final = 5.0


class EngineHealth:
    """Watches an engine's threads and, while requests are running, whether the engine responds.

    A working engine answers a request for its metrics between two steps, even during a long
    prefill; an engine that hangs does not.

    Args:
        threads: The engine's threads.
        deaths: The exceptions that ended threads.
        ask: Asks the engine for its metrics.
        stall_timeout: Seconds without any answer after which the engine counts as hung.
        on_dead: Called once, on the loop, with the error.
    """

    def __init__(
        self,
        threads: Sequence[threading.Thread],
        deaths: ThreadDeaths,
        ask: Callable[[], Awaitable[Any]],
        *,
        stall_timeout: float,
        on_dead: Callable[[EngineDeadError], None],
    ) -> None:
        self._threads = threads
        self._deaths = deaths
        self._ask = ask
        self._stall_timeout = stall_timeout
        self._quiet_s = min(_QUIET_S, stall_timeout / 2)
        self._on_dead = on_dead
        self._running = 0
        self._last_sign = 0.0
        self._signs = 0
        self._longest_quiet: float | None = None
        self._question: asyncio.Future[Any] | None = None
        self.error: EngineDeadError | None = None
        """Why the engine is dead; None while it works."""
        self._task = asyncio.create_task(self._watch())

    def begin(self) -> None:
        """Note that a request begins."""
        if self._running == 0:
            self._last_sign = time.monotonic()
        self._running += 1

    def end(self) -> None:
        """Note that a request has ended."""
        self._running -= 1

    def sign(self) -> None:
        """Note that the engine has done something."""
        now = time.monotonic()
        if self._running:
            self._longest_quiet = max(now - self._last_sign, self._longest_quiet or 0.0)
        self._last_sign = now
        self._signs += 1

    def running_step(self) -> RunningStep | None:
        """The time since the engine's last sign of life, as its steps are not visible from here."""
        if not self._running:
            return None
        quiet = time.monotonic() - self._last_sign
        return RunningStep(self._signs, quiet, self._longest_quiet)

    async def close(self) -> None:
        """Stop watching."""
        self._deaths.close()
        self._task.cancel()
        if self._question is not None:
            self._question.cancel()
        await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while self.error is None:
            await asyncio.sleep(_POLL_S)
            self._check_threads()
            if self._running and self.error is None:
                self._check_answers()
        self._on_dead(self.error)

    def _check_threads(self) -> None:
        dead = next((t for t in self._threads if not t.is_alive()), None)
        if dead is None:
            return
        cause = self._deaths.of(dead)
        why = f"{type(cause).__name__}: {cause}" if cause is not None else "no reason is known"
        self.error = EngineDeadError(f"mlc_llm's engine thread died ({why}).")
        self.error.__cause__ = cause

    def _check_answers(self) -> None:
        quiet = time.monotonic() - self._last_sign
        if quiet > self._stall_timeout:
            self.error = EngineDeadError(
                f"mlc_llm's engine hangs: it has not answered for {self._stall_timeout:g} s "
                "(runtime_options.stall_timeout)."
            )
        elif quiet > self._quiet_s and (self._question is None or self._question.done()):
            self._question = asyncio.ensure_future(self._ask())
            self._question.add_done_callback(self._answered)

    def _answered(self, question: asyncio.Future[Any]) -> None:
        if not question.cancelled() and question.exception() is None:
            self.sign()

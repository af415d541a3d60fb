"""Detects a worker that hangs, by asking it for its state while requests are in flight.

Two things can hang: the worker's event loop, which then answers nothing, or a model's thread, which
then stays at one step for very long. This module reports a hang and ends nothing: the user may keep
waiting, restart the worker or terminate the engine. Only calls that any worker answers at once, for
its state and the like, are not left waiting for one that answers nothing; see `Worker.call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import Any, Final

from mlc_widget.api.engine_link import Hang, HangingPart
from mlc_widget.api.errors import BadRequestError, MLCEngineError, ProtocolError
from mlc_widget.api.log_text import SafeText
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.proxy.connection import WorkerConnection

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 5.0
_LOOKS: Final = 6
"""Checks, one per interval, that must pass at least before silence counts as a hang."""
_LONGER: Final = 10
"""The factor for loads and for a model's first step, which may include a compilation."""
_USUAL_STEPS: Final = 20
"""A step may take this many times as long as the longest step before it."""
_ANSWER_S: Final = 60.0
"""How long a call for the worker's state and the like may take, if `hang_timeout` is not longer."""


def check_hang_timeout(seconds: float) -> float:
    """Read the engines' `hang_timeout` argument.

    Raises:
        BadRequestError: it is not a positive number.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise BadRequestError(
            f"hang_timeout = {seconds!r}: it must be a positive number of seconds; math.inf "
            "turns the watch off.",
            param="hang_timeout",
        )
    return float(seconds)


class HangWatch:
    """Watches one worker, on the home loop, and publishes whether it hangs.

    It sends nothing while no request is in flight. Each check counts as one interval at most, so
    the time for which this process or the machine was suspended is not taken for a hang.

    Args:
        connection: The connection to the worker.
        publisher: Gets hangs, for the engine's snapshot.
        timeout: Seconds without an answer, or at one step, after which it counts as a hang.
    """

    def __init__(
        self, connection: WorkerConnection, publisher: SnapshotPublisher, timeout: float
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._timeout = timeout
        self._interval = min(_INTERVAL_S, timeout / _LOOKS)
        self._late: frozenset[tuple[Any, Any]] = frozenset()
        self.hang: Hang | None = None
        """The current hang, if any, or the one at the time of `close`."""
        self.silence = 0.0
        """Seconds for which the worker has not answered, counted by checks."""
        self.silent = asyncio.Event()
        """Set while the worker answers nothing for so long that calls no longer wait for it.

        That is when it counts as a hang, or after `answer_s` where nothing does.
        """
        self._task = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Stop watching: the worker has ended, or is about to. Idempotent."""
        self._task.cancel()
        if self.hang is not None and self._publisher.snapshot.hang is self.hang:
            self._publisher.update(hang=None)

    async def _watch(self) -> None:
        with contextlib.suppress(MLCEngineError):  # the worker is gone
            while True:
                await self._connection.asked.wait()
                await self._attend()

    async def _attend(self) -> None:
        """Check regularly until nothing is in flight and nothing hangs."""
        while True:
            await asyncio.sleep(self._interval)
            if not self._connection.busy and self.hang is None:
                break
            self._judge(await self._ask())
        self._connection.asked.clear()

    async def _ask(self) -> list[tuple[str, int, float, float | None]]:
        """Ask the worker for its models' steps, and wait for the answer however long it takes."""
        answer = self._connection.send("health")
        heard = self._connection.heard
        since = last = time.monotonic()
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=self._interval)
                now = time.monotonic()
                if self._connection.heard != heard:  # as good as the answer, which comes behind it
                    heard, since, self.silence = self._connection.heard, now, 0.0
                else:
                    self.silence += min(now - last, self._interval)
                last = now
                if answer.done():
                    break
                if self.silence >= self._patience():
                    self._report("worker", since)
                elif self.silence >= self.answer_s:
                    self.silent.set()
            return _read_steps(answer.result())
        except ProtocolError:  # it cannot tell, but it speaks
            return []
        finally:
            self.silence = 0.0
            answer.cancel()

    def _patience(self) -> float:
        return self._timeout * self._slowness

    @property
    def answer_s(self) -> float:
        """Seconds within which a call must be answered that any worker answers at once.

        Finite even if `hang_timeout` is not: then nothing is reported, but no such call waits for
        a worker without end.
        """
        return self._slowness * max(_ANSWER_S, 0 if math.isinf(self._timeout) else self._timeout)

    @property
    def _slowness(self) -> int:
        return _LONGER if self._publisher.snapshot.state == "loading" else 1

    def _judge(self, steps: list[tuple[str, int, float, float | None]]) -> None:
        """Report a step that is late at two checks in a row: once, the machine may have slept."""
        late = {
            (model, number): seconds
            for model, number, seconds, usual in steps
            if seconds > self._allowed(usual)
        }
        hung = [seconds for step, seconds in late.items() if step in self._late]
        self._late = frozenset(late)
        if hung:
            self._report("engine", time.monotonic() - max(hung))
        else:
            self._withdraw()

    def _allowed(self, usual: float | None) -> float:
        if usual is None:
            return _LONGER * self._timeout
        return max(self._timeout, _USUAL_STEPS * usual)

    def _report(self, part: HangingPart, since: float) -> None:
        if self.hang is not None and self.hang.part == part:
            return
        self.hang = hang = Hang(part, since)
        if part == "worker":
            self.silent.set()
        else:
            self.silent.clear()
        logger.warning(
            "%s Running requests wait. A restart (`%%mlc restart`, or the button in a chat) "
            "continues them in a new worker; terminate() ends them.",
            SafeText(hang.message),
        )
        self._publisher.update(hang=hang)

    def _withdraw(self) -> None:
        hang, self.hang = self.hang, None
        self.silent.clear()
        if hang is not None:
            logger.warning("The worker responds again, after %.0f s.", hang.seconds)
            self._publisher.update(hang=None)


def _read_steps(answer: Any) -> list[tuple[str, int, float, float | None]]:
    try:
        return [
            (
                step["model"],
                step["number"],
                float(step["seconds"]),
                None if step["usual_s"] is None else float(step["usual_s"]),
            )
            for step in answer
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise ProtocolError(f"health was answered by {answer!r:.200}") from error

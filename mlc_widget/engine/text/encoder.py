"""Encodes the texts of one model's requests on threads, with a time limit.

A tokenizer.json has regular expressions, which may take practically forever on a hostile text, and
a thread cannot be killed. If a text takes too long, its request fails and the worker is reported as
hanging; a cancelled request leaves its thread behind, too. The number of such threads is limited,
so that they cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mlc_widget.api.errors import InternalEngineError, MLCEngineError
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.system.running_step import RunningStep
from mlc_widget.engine.text.prompt_text import PromptText
from mlc_widget.engine.text.tokenizer import Tokenizer

_T = TypeVar("_T")

LIMIT_S: Final = 30.0
"""Seconds that encoding a text may take, plus one second for each `CHARS_PER_S` characters."""
CHARS_PER_S: Final = 50_000
_LONG: Final = 32 * 1024
"""A text of this many characters counts as long; encoding takes many times a text's memory."""
_LONG_AT_ONCE: Final = 2
"""The number of long texts that are encoded at the same time; others wait."""
_MOST_LOST: Final = 4
"""While this many threads still encode texts of requests that have ended, no other is encoded."""


@dataclass(eq=False, slots=True)
class _Work:
    """A text that is being encoded.

    Attributes:
        number: The number of the text, counted per encoder.
        began: When encoding began, by `time.monotonic`.
        due: When it should have ended.
        long: Whether the text is long.
        done: Done when the thread has ended.
        lost: Whether its request has ended while the thread is still running.
    """

    number: int
    began: float
    due: float
    long: bool
    done: asyncio.Future[Any]
    lost: bool = False


class Encoder:
    """Runs a tokenizer on threads of its own.

    Args:
        tokenizer: The model's tokenizer.
        model_id: For error messages.
    """

    def __init__(self, tokenizer: Tokenizer, model_id: str) -> None:
        self._tokenizer = tokenizer
        self._model_id = model_id
        self._limit_s = LIMIT_S
        self._numbers = itertools.count(1)
        self._running: dict[int, _Work] = {}
        self._longest: float | None = None

    async def encode_prompt(self, prompt: PromptText) -> list[int]:
        """Run `Tokenizer.encode_prompt` on a thread.

        Raises:
            InternalEngineError: The tokenizer failed or took too long.
        """
        return await self.run(lambda: self._tokenizer.encode_prompt(prompt), len(prompt))

    async def run(self, work: Callable[[], _T], chars: int) -> _T:
        """Encode on a thread, which is abandoned if it takes too long.

        Args:
            work: The encoding to run.
            chars: The length of its text in characters.

        Raises:
            InternalEngineError: The tokenizer failed or took too long.
        """
        long = chars >= _LONG
        await self._wait_for_room(long)
        limit = self._limit_s + chars / CHARS_PER_S
        number, began = next(self._numbers), time.monotonic()
        done = call_in_daemon(work, "mlc_widget-encode")
        running = self._running[number] = _Work(number, began, began + limit, long, done)
        done.add_done_callback(lambda _: self._ended(running))
        try:
            finished, _ = await asyncio.wait({done}, timeout=limit)
        except asyncio.CancelledError:
            running.lost = True
            raise
        if not finished:
            running.lost = True
            raise InternalEngineError(
                f"The tokenizer of {self._model_id} did not encode a text of {chars} characters "
                f"within {limit:.0f} s; a pattern in its tokenizer.json may take forever on this "
                "text. Restart the worker to stop it, and change the text or use another model.",
                code="tokenizer_hangs",
            )
        try:
            return done.result()
        except MLCEngineError:
            raise
        except Exception as error:
            raise InternalEngineError(
                f"The tokenizer of {self._model_id} failed on a text of {chars} characters: "
                f"{type(error).__name__}: {error}"
            ) from error

    async def _wait_for_room(self, long: bool) -> None:
        """Wait until another text may be encoded.

        Raises:
            InternalEngineError: All threads that it would wait for are overdue.
        """
        while blocking := self._blocking(long):
            left = [work.due - time.monotonic() for work in blocking]
            if max(left) <= 0:
                raise InternalEngineError(
                    f"The tokenizer of {self._model_id} is still encoding {len(blocking)} texts "
                    "that should have been finished: restart the worker, and use another model if "
                    "it happens again.",
                    code="tokenizer_hangs",
                )
            await asyncio.wait(
                {work.done for work in blocking},
                timeout=min(seconds for seconds in left if seconds > 0),
                return_when=asyncio.FIRST_COMPLETED,
            )

    def _blocking(self, long: bool) -> list[_Work]:
        """Running work of which at least one must end before another text may be encoded."""
        lost = [work for work in self._running.values() if work.lost]
        if len(lost) >= _MOST_LOST:
            return lost
        others = [work for work in self._running.values() if work.long] if long else []
        return others if len(others) >= _LONG_AT_ONCE else []

    def _ended(self, work: _Work) -> None:
        took = time.monotonic() - self._running.pop(work.number).began
        self._longest = max(took, self._longest or 0.0)
        if work.lost and not work.done.cancelled():
            work.done.exception()  # so that asyncio does not log it as never retrieved

    def running_step(self) -> RunningStep | None:
        """The work that has been running longest, as a step; None if nothing is running."""
        if not self._running:
            return None
        work = next(iter(self._running.values()))
        return RunningStep(work.number, time.monotonic() - work.began, self._longest or 0.0)

"""Encodes the texts of one model's requests, off the event loop and under a watch.

What tokenizer.json holds is code of a kind: regular expressions that may run away on a text that
somebody chose. A thread cannot be ended: where a text takes too long its request ends with an error
and the worker is seen to hang, and a request that is cancelled leaves its thread behind. Such
threads still count until they end, so that they cannot fill the memory.
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
"""Seconds that a text may take, and a second more for each `CHARS_PER_S` characters."""
CHARS_PER_S: Final = 50_000
_LONG: Final = 32 * 1024
"""Characters from which a text is long: encoding it takes many times its memory."""
_LONG_AT_ONCE: Final = 2
"""Long texts that are encoded at once; more wait."""
_MOST_LOST: Final = 4
"""Threads whose requests have ended; while there are so many, others wait."""


@dataclass(eq=False, slots=True)
class _Work:
    """One text that is being encoded.

    Attributes:
        number: Counts the texts.
        began: When it began, by `time.monotonic`.
        due: When it should have ended.
        long: Whether it is a long text.
        done: Ends with its thread.
        lost: Whether its request has ended, and it has not.
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
        tokenizer: The model's.
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
        """`Tokenizer.encode_prompt`.

        Raises:
            InternalEngineError: The tokenizer failed, or took too long.
        """
        return await self.run(lambda: self._tokenizer.encode_prompt(prompt), len(prompt))

    async def run(self, work: Callable[[], _T], chars: int) -> _T:
        """Do work on a thread that may be left behind.

        Args:
            work: The encoding to run.
            chars: The length of its text, in characters.

        Raises:
            InternalEngineError: It failed, or took too long.
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
                f"The tokenizer of {self._model_id} has not finished a text of {chars} characters "
                f"in {limit:.0f} s: its tokenizer.json may never end on this text. Restart the "
                "worker to stop it, and change the text or use another model.",
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
            InternalEngineError: All that it would wait for should have ended already.
        """
        while blocking := self._blocking(long):
            left = [work.due - time.monotonic() for work in blocking]
            if max(left) <= 0:
                raise InternalEngineError(
                    f"The tokenizer of {self._model_id} has not finished {len(blocking)} texts; "
                    "restart the worker, and use another model if that happens again.",
                    code="tokenizer_hangs",
                )
            await asyncio.wait(
                {work.done for work in blocking},
                timeout=min(seconds for seconds in left if seconds > 0),
                return_when=asyncio.FIRST_COMPLETED,
            )

    def _blocking(self, long: bool) -> list[_Work]:
        """What runs and has to end, one of it at least, before another text may be encoded."""
        lost = [work for work in self._running.values() if work.lost]
        if len(lost) >= _MOST_LOST:
            return lost
        others = [work for work in self._running.values() if work.long] if long else []
        return others if len(others) >= _LONG_AT_ONCE else []

    def _ended(self, work: _Work) -> None:
        took = time.monotonic() - self._running.pop(work.number).began
        self._longest = max(took, self._longest or 0.0)
        if work.lost and not work.done.cancelled():
            work.done.exception()  # nobody else asks for it

    def running_step(self) -> RunningStep | None:
        """The work that runs for longest, as the step of a model's thread; None if none does."""
        if not self._running:
            return None
        work = next(iter(self._running.values()))
        return RunningStep(work.number, time.monotonic() - work.began, self._longest or 0.0)

"""Encodes the texts of one model's requests, off the event loop and under a watch.

What tokenizer.json holds is code of a kind: regular expressions that may run away on a text that
somebody chose. Such a thread cannot be ended, but the request is, and the worker is seen to hang.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Final, TypeVar

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
_LONG_AT_ONCE: Final = 2
_MOST_LOST: Final = 4


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
        self._running: dict[int, float] = {}  # the work's number, and when it began
        self._longest: float | None = None
        self._lost = 0
        self._long = asyncio.Semaphore(_LONG_AT_ONCE)

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
        if self._lost >= _MOST_LOST:
            raise InternalEngineError(
                f"The tokenizer of {self._model_id} has not finished {self._lost} texts; "
                "restart the worker, and use another model if that happens again."
            )
        if chars < _LONG:
            return await self._run(work, chars)
        async with self._long:  # the memory of one is many times the text's
            return await self._run(work, chars)

    async def _run(self, work: Callable[[], _T], chars: int) -> _T:
        number, began = next(self._numbers), time.monotonic()
        done = call_in_daemon(work, "mlc_widget-encode")
        self._running[number] = began
        done.add_done_callback(lambda _: self._ended(number))
        limit = self._limit_s + chars / CHARS_PER_S
        finished, _ = await asyncio.wait({done}, timeout=limit)
        if not finished:
            self._lost += 1
            done.add_done_callback(self._found)
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

    def _ended(self, number: int) -> None:
        took = time.monotonic() - self._running.pop(number)
        self._longest = max(took, self._longest or 0.0)

    def _found(self, done: asyncio.Future[_T]) -> None:
        """What was given up came to its end after all."""
        self._lost -= 1
        if not done.cancelled():
            done.exception()

    def running_step(self) -> RunningStep | None:
        """The work that runs for longest, as the step of a model's thread; None if none does."""
        if not self._running:
            return None
        number, began = next(iter(self._running.items()))
        return RunningStep(number, time.monotonic() - began, self._longest or 0.0)

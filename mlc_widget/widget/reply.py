"""What `chat.send` returns at once: a reply that can be awaited, read and stopped."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

from mlc_widget.api import batch_runs
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.home_loop import check_not_forked_from, to_raise, wait_ticking
from mlc_widget.widget.chat_request import openai_message
from mlc_widget.widget.state import Message
from mlc_widget.widget.transcript import plain_text


class Reply(NotCopyable):
    """A reply that is being made; ``await reply`` returns the message, ``{"role", "content"}``.

    If the chat's own functions answer the reply's tool calls, `await` returns the last reply that
    follows from them. Interrupting the `await` stops the reply. A stopped reply has the text so
    far; a failed one raises its error.
    """

    _instead = "it may still be written. Keep its message, `reply.result()`, or its `reply.text`."

    def __init__(
        self, reply: str, read: Callable[[str], Message], stop: Callable[[str], object]
    ) -> None:
        self.id = reply
        self._read = read
        self._stop = stop
        self._done: concurrent.futures.Future[Message] = concurrent.futures.Future()
        self._next: concurrent.futures.Future[Reply | None] | None = None
        self._stopped = False
        self._pid = os.getpid()

    @property
    def text(self) -> str:
        """Its text so far."""
        return self._read(self.id).text

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``done``, ``stopped`` or ``error``."""
        return self._read(self.id).status

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's finish reason, once it has ended.

        ``length`` means that the reply was cut short, and so may be its tool calls.
        """
        return self._read(self.id).finish or None

    @property
    def stats(self) -> dict[str, Any] | None:
        """Its statistics (`ReplyStats`), once it is done."""
        stats = self._read(self.id).stats
        return None if stats is None else stats.to_json()

    @property
    def logprobs(self) -> tuple[dict[str, Any], ...]:
        """Its tokens once it has ended, as in OpenAI's ``logprobs["content"]``.

        Empty unless the chat's setting `logprobs` was True.
        """
        return tuple(self._read(self.id).tokens)

    def done(self) -> bool:
        """Whether it has ended: done, stopped or failed."""
        return self._done.done()

    def stop(self) -> None:
        """Stop it, and what follows from its tool calls. The text so far is kept."""
        self._stopped = True
        self._stop(self.id)
        if self._next is not None and self._next.done():
            following = self._next.result()
            if following is not None:
                following.stop()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Block the calling thread until it ends, and return the message with its tool calls.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds; it continues.
            MLCEngineError: the reply failed.
        """
        self._check_process()
        return _content(self._done.result(timeout))

    def _check_process(self) -> None:
        if not self._done.done():
            check_not_forked_from(self._pid)

    def _last_result(self) -> dict[str, Any]:
        """As `result`, for the last reply that follows from its tool calls.

        It would deadlock on the thread on which the functions are called.
        """
        message = self.result()
        following = None if self._next is None else self._next.result()
        return message if following is None else following._last_result()

    def _last_text(self) -> str:
        """What it says and what follows from its calls, for a reader without a page; once ended."""
        text = plain_text(self._read(self.id))
        following = None if self._next is None else self._next.result()
        return text if following is None else f"{text}\n\n{following._last_text()}"

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self._wait().__await__()

    async def _wait(self) -> dict[str, Any]:
        self._check_process()
        try:
            await _ended(self._done)
        except asyncio.CancelledError:
            self.stop()
            raise
        if self._next is not None:
            await _ended(self._next)
            if (following := self._next.result()) is not None:
                return await following
        return _content(self._done.result())

    def __repr__(self) -> str:
        message = self._read(self.id)
        return f"<Reply {message.status}: {message.text!r}>"

    def _begin(self) -> None:
        """It will be made, and `_settle` will be called; on the I/O thread."""
        batch_runs.expect(self._done)

    def _settle(self, message: Message) -> None:
        """Wake whoever waits; called once, on the I/O thread."""
        self._done.set_result(message)

    def _expect_next(self) -> None:
        """Have whoever awaits this wait for the reply to its calls; on the I/O thread."""
        self._next = concurrent.futures.Future()
        batch_runs.expect(self._next)

    def _followed_by(self, reply: Reply | None) -> None:
        """Set the reply to its calls, or None if there will be none. On the I/O thread."""
        if self._next is not None:
            self._next.set_result(reply)
            if reply is not None and self._stopped:  # meanwhile
                reply.stop()


def _content(message: Message) -> dict[str, Any]:
    """An ended message in OpenAI's shape; raises the error if it failed."""
    if message.error is not None:
        # A copy: what the transcript keeps must not hold on to the frames of whoever catches it.
        raise to_raise(message.error)
    return openai_message(message)


async def _ended(future: concurrent.futures.Future[Any]) -> None:
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_wake, waiter)

    future.add_done_callback(wake)
    await wait_ticking(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

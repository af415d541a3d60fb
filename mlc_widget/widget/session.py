"""A conversation with an engine: it lives on the I/O thread; widgets show it and send intents."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlc_widget.api.errors import (
    BadRequestError,
    EngineTerminatedError,
    InternalEngineError,
    MLCEngineError,
)
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.link import EngineLink, Snapshot
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.state import ChatOptions, ChatState, Message, ReplyStats, Status
from mlc_widget.widget.stream import ReplyStream

_WAIT_FOR_ENGINE = ("starting", "loading")


@dataclass(frozen=True, slots=True)
class ChatSink:
    """Who hears of a session; everything is called on the I/O thread.

    Attributes:
        on_change: Messages came, went or ended.
        on_delta: A reply grew (`ReplyStream`).
        on_mirror: The growing reply's whole text should be synced.
        on_end: A reply ended, in whatever way; called before whoever awaits it wakes.
    """

    on_change: Callable[[], object]
    on_delta: Callable[[JSONDict], object]
    on_mirror: Callable[[], object]
    on_end: Callable[[Reply], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a reply ended."""

    status: Status
    finish: str = ""
    usage: JSONDict = field(default_factory=dict)
    error: MLCEngineError | None = None


def _outcome_of(task: asyncio.Task[_Outcome]) -> _Outcome:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, MLCEngineError):
        return _Outcome("error", error=error)
    # A bug here or below; it must not leave the chat waiting for ever.
    internal = InternalEngineError(f"{type(error).__name__}: {error}")
    internal.__cause__ = error
    return _Outcome("error", error=internal)


class ChatSession:
    """The owner of a conversation's state.

    `state`, `live` and `options` may be read on any thread, and `options` set; all methods belong
    to the I/O thread. Replies are made one at a time, in the order in which they were asked for.
    """

    def __init__(
        self,
        link: EngineLink,
        sink: ChatSink,
        options: ChatOptions,
        history: Sequence[Message] = (),
    ) -> None:
        self.options = options
        self._link = link
        self._sink = sink
        self._state = ChatState()
        if history:
            self._state = self._state.put(*history, head=history[-1].id)
        self._reply_options: dict[str, ChatOptions] = {}
        self._stream: ReplyStream | None = None
        self._queue: deque[str] = deque()
        self._task: asyncio.Task[_Outcome] | None = None
        self._replies: dict[str, Reply] = {}
        self._unobserve: Callable[[], object] | None = None

    def start(self) -> None:
        """Begin to follow the engine."""
        self._unobserve = self._link.observe(self._on_engine)

    def close(self) -> None:
        """Stop everything and let go of the engine."""
        self.stop()
        if self._unobserve is not None:
            self._unobserve()
            self._unobserve = None

    @property
    def state(self) -> ChatState:
        """The conversation now, with the growing reply's text so far."""
        stream = self._stream  # before the state: whoever ends a stream changes the state first
        state = self._state
        if stream is None or state.messages[stream.reply].status != "running":
            return state
        message = replace(state.messages[stream.reply], text=stream.text)
        return replace(state, messages={**state.messages, message.id: message})

    @property
    def live(self) -> JSONDict:
        """The growing reply's whole text, as a delta from offset 0; empty if nothing grows."""
        stream = self._stream
        if stream is None or self._state.messages[stream.reply].status != "running":
            return {}
        return {"reply": stream.reply, "offset": 0, "text": stream.text}

    def message(self, message_id: str) -> Message:
        """One message as it is now."""
        return self.state.messages[message_id]

    def send(self, text: str, options: ChatOptions | None = None) -> Reply:
        """Add a message and ask for its reply, which is made when its turn comes.

        Args:
            text: What to say.
            options: How this reply is made, if not as the session's others.

        Raises:
            BadRequestError: if there is nothing in it.
            EngineTerminatedError: after `terminate`.
        """
        if not isinstance(text, str) or not text.strip():
            raise BadRequestError(f"text = {text!r}: write a message first.", param="text")
        self._check_alive()
        user = Message(uuid.uuid4().hex, "user", text, parent=self._state.head)
        return self._ask(user, options)

    def retry(self, reply_id: str) -> Reply:
        """Make a reply anew, in a branch beside the old one.

        Raises:
            BadRequestError: if there is no such reply, or it has not ended.
        """
        old = self._state.messages.get(reply_id)
        if old is None or old.role != "assistant" or old.status in ("queued", "running"):
            raise BadRequestError(f"reply = {reply_id!r}: no reply that has ended.", param="reply")
        self._check_alive()
        assert old.parent is not None, "a reply follows a message"
        return self._ask(self._state.messages[old.parent], self._reply_options.get(reply_id))

    def stop(self, reply_id: str | None = None) -> None:
        """End one reply, or the running one and all that wait."""
        for waiting in list(self._queue):
            if reply_id in (None, waiting):
                self._queue.remove(waiting)
                self._end(waiting, "stopped")
        stream = self._stream
        if self._task is not None and stream is not None and reply_id in (None, stream.reply):
            self._task.cancel()

    def _ask(self, user: Message, options: ChatOptions | None = None) -> Reply:
        answer = Message(uuid.uuid4().hex, "assistant", "", parent=user.id, status="queued")
        reply = Reply(
            answer.id, self.message, lambda reply_id: self._link.call_soon(self.stop, reply_id)
        )
        self._replies[answer.id] = reply
        if options is not None:
            self._reply_options[answer.id] = options
        self._state = self._state.put(user, answer, head=answer.id)
        self._queue.append(answer.id)
        self._pump()
        self._sink.on_change()
        return reply

    def _check_alive(self) -> None:
        if self._link.snapshot.state == "terminated":
            raise EngineTerminatedError("The engine was terminated; make a new one.")

    def _on_engine(self, snapshot: Snapshot) -> None:
        if snapshot.state == "terminated":
            self.stop()
        else:
            # Not now: an engine passes through `idle` on its way from `starting` to `loading`.
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start the next reply if none runs and the engine is not busy with a load."""
        snapshot = self._link.snapshot
        if self._task is not None or not self._queue or snapshot.state in _WAIT_FOR_ENGINE:
            return
        reply_id = self._queue.popleft()
        if snapshot.state == "idle" and snapshot.error is not None:
            self._end(reply_id, "error", error=snapshot.error)
            self._pump()
            return
        stream = ReplyStream(reply_id, on_delta=self._sink.on_delta, on_mirror=self._sink.on_mirror)
        self._stream = stream
        running = replace(self._state.messages[reply_id], status="running")
        self._state = self._state.put(running)
        self._task = asyncio.create_task(self._generate(stream))
        self._task.add_done_callback(lambda task: self._on_generated(stream, task))
        self._sink.on_change()

    async def _generate(self, stream: ReplyStream) -> _Outcome:
        """Have the engine answer; cancelling it stops the engine."""
        history = self._state.path(self._state.messages[stream.reply].parent)
        request = self._reply_options.get(stream.reply, self.options).request(history)
        finish = ""
        usage: JSONDict = {}
        async with contextlib.aclosing(await self._link.open_stream("chat", request)) as batches:
            async for batch in batches:
                for chunk in batch:
                    usage = chunk.get("usage") or usage
                    for choice in chunk["choices"]:
                        stream.append(choice["delta"].get("content") or "")
                        finish = choice.get("finish_reason") or finish
        return _Outcome("stopped" if finish == "abort" else "done", finish, usage)

    def _on_generated(self, stream: ReplyStream, task: asyncio.Task[_Outcome]) -> None:
        """Record how a reply ended. A callback, as a task that is cancelled early never runs."""
        outcome = _Outcome("stopped") if task.cancelled() else _outcome_of(task)
        stream.close()
        known = outcome.usage or stream.ttft_s is not None
        self._end(
            stream.reply,
            outcome.status,
            text=stream.text,
            finish=outcome.finish,
            error=outcome.error,
            stats=ReplyStats.of_usage(outcome.usage, stream.ttft_s) if known else None,
        )
        self._stream = self._task = None
        self._pump()

    def _end(self, reply_id: str, status: Status, **fields: Any) -> None:
        message = replace(self._state.messages[reply_id], status=status, **fields)
        self._state = self._state.put(message)
        self._sink.on_change()
        reply = self._replies.pop(reply_id)
        self._sink.on_end(reply)
        reply._settle(message)

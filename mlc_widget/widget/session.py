"""A conversation with an engine, on the I/O thread; widgets show it and send it intents."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.errors import BadRequestError, EngineTerminatedError
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.functions import results_in_order
from mlc_widget.widget.options import with_options
from mlc_widget.widget.outcome import Outcome, outcome_of
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.reply_buffer import ReplyBuffer
from mlc_widget.widget.reply_stream import stream_reply
from mlc_widget.widget.state import (
    ChatOptions,
    ChatState,
    Message,
    ReplyStats,
    Status,
)

MAX_CALL_TURNS = 8
"""Replies in a row whose calls are answered by the notebook's functions, before the user is."""


class ChatSession:
    """Owns a conversation's state.

    `state`, `live` and `options` may be read on any thread; all methods belong to the I/O thread.
    Replies are made one at a time, in the order in which they were asked for.
    """

    def __init__(
        self,
        link: EngineLink,
        listener: ChatListener,
        options: ChatOptions,
        history: Sequence[Message] = (),
    ) -> None:
        self.options = options
        self._link = link
        self._listener = listener
        self._state = ChatState()
        if history:
            self._state = self._state.put(*history, head=history[-1].id)
        self._reply_options: dict[str, ChatOptions] = {}
        self._stream: ReplyBuffer | None = None
        self._queue: deque[str] = deque()
        self._task: asyncio.Task[Outcome] | None = None
        self._replies: dict[str, Reply] = {}
        self._unobserve: Callable[[], object] | None = None

    def start(self) -> None:
        """Start following the engine."""
        self._unobserve = self._link.observe(self._on_engine)

    def close(self) -> None:
        """Stop everything, and stop following the engine."""
        self.stop()
        if self._unobserve is not None:
            self._unobserve()
            self._unobserve = None

    @property
    def state(self) -> ChatState:
        """The conversation, including the growing reply's text so far."""
        stream = self._stream  # before the state: whoever ends a stream changes the state first
        state = self._state
        running = None if stream is None else state.messages.get(stream.reply)
        if stream is None or running is None or running.status != "running":
            return state
        message = replace(running, **stream.fields())
        return replace(state, messages={**state.messages, message.id: message})

    @property
    def live(self) -> JSONDict:
        """The growing reply's whole text and thoughts; empty if nothing grows on the shown path."""
        stream = self._stream
        if stream is None or not self._shows(stream.reply):
            return {}
        return {"reply": stream.reply, "text": stream.text, "reasoning": stream.reasoning}

    def _shows(self, reply_id: str) -> bool:
        """Whether a running reply is on the shown path."""
        state = self._state
        running = state.messages.get(reply_id)
        if running is None or running.status != "running":
            return False
        return state.head == reply_id or any(m.id == reply_id for m in state.path())

    def _on_delta(self, delta: JSONDict) -> None:
        # Of a reply in another branch the page learns when that branch is shown.
        if self._shows(delta["reply"]):
            self._listener.on_delta(delta)

    def message(self, message_id: str) -> Message:
        """One message as it is now."""
        return self.state.messages.get(message_id) or Message(message_id, "assistant", "")

    def options_of(self, reply_id: str) -> ChatOptions:
        """The options of a reply."""
        return self._reply_options.get(reply_id, self.options)

    def send(self, text: str, options: ChatOptions | None = None) -> Reply:
        """Add a message and queue its reply.

        Args:
            text: The message.
            options: The options of this reply; by default those of the session.

        Raises:
            BadRequestError: the text is empty.
            EngineTerminatedError: the engine was terminated.
        """
        _check_text(text)
        self._check_alive()
        user = Message(uuid.uuid4().hex, "user", text, parent=self._state.head)
        return self._ask(user, options=options)

    def retry(self, message_id: str) -> Reply:
        """Regenerate a reply, in a branch beside the old one, or make a message's first reply.

        Raises:
            BadRequestError: there is no such message, or its reply has not ended.
            EngineTerminatedError: the engine was terminated.
        """
        old = self._find(message_id)
        if old.status in ("queued", "running"):
            raise BadRequestError(f"reply = {message_id!r}: it has not ended yet.", param="reply")
        self._check_alive()
        if old.role != "assistant":
            return self._ask(old)
        assert old.parent is not None, "a reply follows a message"
        options = self._reply_options.get(message_id)
        return self._ask(self._state.messages[old.parent], options=options)

    def edit(self, message_id: str, text: str) -> Reply:
        """Send a new version of a message, in a branch beside the old one.

        Raises:
            BadRequestError: there is no such user message, or `text` is empty.
            EngineTerminatedError: the engine was terminated.
        """
        old = self._find(message_id)
        if old.role != "user":
            raise BadRequestError(
                f"message = {message_id!r}: only messages of the user can be edited.",
                param="message",
            )
        _check_text(text)
        self._check_alive()
        return self._ask(Message(uuid.uuid4().hex, "user", text, parent=old.parent))

    def give_results(self, message_id: str, results: Any) -> Reply:
        """Add the results of a reply's tool calls, and queue the reply to them.

        Raises:
            BadRequestError: there is no such reply, it makes no calls, or results are missing.
            EngineTerminatedError: the engine was terminated.
        """
        old = self._find(message_id)
        if not old.tool_calls:
            raise BadRequestError(f"reply = {message_id!r}: it calls no tools.", param="reply")
        if not old.calls_are_whole:
            raise BadRequestError(
                f"reply = {message_id!r}: it ended before its calls were complete; regenerate it.",
                param="reply",
            )
        texts = results_in_order(old.tool_calls, results)
        self._check_alive()
        turn = [replace(old, calling=False)]
        for call, text in zip(old.tool_calls, texts, strict=True):
            result = Message(
                uuid.uuid4().hex,
                "tool",
                text,
                parent=turn[-1].id,
                tool_call_id=call["id"],
                name=call["function"]["name"],
            )
            turn.append(result)
        waiting = [m.id for m in self._state.messages.values() if self._waits_after(m, old)]
        return self._ask(*turn, options=self._reply_options.get(message_id), before=waiting)

    def _waits_after(self, message: Message, reply: Message) -> bool:
        """Whether a message follows a reply and is not answered yet."""
        return message.parent == reply.id and any(
            self._state.messages[queued].parent == message.id for queued in self._queue
        )

    def begin_calls(self, message_id: str) -> bool:
        """Note that functions are making a reply's calls; returns False after too many turns."""
        turns = 0
        for message in reversed(self._state.path(message_id)):
            if message.role == "user":
                break
            turns += message.role == "assistant"
        if turns > MAX_CALL_TURNS:
            return False
        self._state = self._state.put(replace(self._state.messages[message_id], calling=True))
        self._listener.on_change()
        return True

    def end_calls(self, message_id: str, results: Sequence[str] | None) -> Reply | None:
        """Note that the functions have finished, and add the calls' results.

        Args:
            message_id: The reply; ignored if it was deleted, or has results already.
            results: One text per call; None if the user must give them.

        Returns:
            The reply to the results, if there will be one.
        """
        message = self._state.messages.get(message_id)
        following = None
        if message is not None and message.calling:
            self._state = self._state.put(replace(message, calling=False))
            if results is not None:
                with contextlib.suppress(EngineTerminatedError):
                    following = self.give_results(message_id, results)
            self._pump()  # what waited for the results
            self._listener.on_change()
        return following

    def select(self, message_id: str) -> None:
        """Show the branch that contains this message.

        Raises:
            BadRequestError: there is no such message.
        """
        self._state = self._state.select(self._find(message_id).id)
        self._listener.on_change()

    def delete(self, message_id: str) -> None:
        """Delete a message and all that follow it; replies that are being made there stop.

        Raises:
            BadRequestError: there is no such message.
        """
        for gone in self._state.subtree(self._find(message_id).id):
            self.stop(gone)
        self._state = self._state.without(message_id)
        self._listener.on_change()

    def set_option(self, name: str, value: Any) -> None:
        """Change one setting for replies that start from now on.

        Raises:
            BadRequestError: naming the setting, the value and what it may be.
        """
        self.options = with_options(self.options, **{name: value})
        self._listener.on_options()

    def _find(self, message_id: Any) -> Message:
        message = self._state.messages.get(message_id) if isinstance(message_id, str) else None
        if message is None:
            raise BadRequestError(f"message = {message_id!r}: no such message.", param="message")
        return message

    def stop(self, reply_id: str | None = None) -> None:
        """Stop one reply, or the running one and all that are queued."""
        for waiting in list(self._queue):
            if reply_id in (None, waiting):
                self._queue.remove(waiting)
                self._end(waiting, "stopped")
        stream = self._stream
        if self._task is not None and stream is not None and reply_id in (None, stream.reply):
            self._task.cancel()

    def _ask(
        self, *turn: Message, options: ChatOptions | None = None, before: Sequence[str] = ()
    ) -> Reply:
        """Add messages and queue the reply to the last of them.

        Args:
            turn: The messages.
            options: The options of the reply; by default those of the session.
            before: Waiting messages that should come after this reply.
        """
        answer = Message(uuid.uuid4().hex, "assistant", "", parent=turn[-1].id, status="queued")
        reply = Reply(
            answer.id, self.message, lambda reply_id: self._link.call_soon(self.stop, reply_id)
        )
        self._replies[answer.id] = reply
        if options is not None:
            self._reply_options[answer.id] = options
        head = self._state.head
        self._state = self._state.put(*turn, answer, head=answer.id)
        for message_id in before:
            self._state = self._state.behind(answer.id, message_id)
            if head in self._state.subtree(message_id):
                self._state = self._state.put(head=head)
        if before:
            self._queue.appendleft(answer.id)
        else:
            self._queue.append(answer.id)
        self._pump()
        self._listener.on_change()
        return reply

    def _check_alive(self) -> None:
        if self._link.snapshot.state == "terminated":
            error = self._link.snapshot.error
            raise EngineTerminatedError(error.message if error else "The engine was terminated.")

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        if snapshot.state == "terminated":
            self.stop()
        else:
            # Not now: an engine passes through `idle` on its way from `starting` to `loading`.
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start the next reply if none is running and the engine is not loading."""
        snapshot = self._link.snapshot
        if self._task is not None or _is_loading(snapshot):
            return
        reply_id = next((queued for queued in self._queue if self._may_begin(queued)), None)
        if reply_id is None:
            return
        self._queue.remove(reply_id)
        if snapshot.state == "idle" and snapshot.error is not None:
            self._end(reply_id, "error", error=snapshot.error)
            self._pump()
            return
        stream = ReplyBuffer(reply_id, on_delta=self._on_delta, on_mirror=self._listener.on_mirror)
        self._stream = stream
        options = self.options_of(reply_id)
        as_json = options.schema is not None
        running = replace(self._state.messages[reply_id], status="running", json=as_json)
        self._state = self._state.put(running)
        request = options.request(self._state.path(running.parent))
        generating = stream_reply(
            self._link,
            request,
            stream,
            on_change=self._listener.on_change,
            on_resumed=partial(self._note_resumed, reply_id),
        )
        self._task = asyncio.create_task(generating)
        self._task.add_done_callback(lambda task: self._on_generated(stream, task))
        self._listener.on_change()

    def _may_begin(self, reply_id: str) -> bool:
        """Whether no functions are still making calls of an earlier reply."""
        return not any(message.calling for message in self._state.path(reply_id))

    def _note_resumed(self, reply_id: str, exact: bool) -> None:
        message = self._state.messages.get(reply_id)
        if message is not None:  # it may have been deleted
            exact = exact and message.resumed is not False
            self._state = self._state.put(replace(message, resumed=exact))
            self._listener.on_change()

    def _on_generated(self, stream: ReplyBuffer, task: asyncio.Task[Outcome]) -> None:
        """Record how a reply ended. A callback, as a task that is cancelled early never runs."""
        outcome = Outcome("stopped") if task.cancelled() else outcome_of(task)
        stream.close()
        known = outcome.usage or stream.ttft_s is not None
        self._end(
            stream.reply,
            outcome.status,
            **stream.fields(),
            finish=outcome.finish,
            error=outcome.error,
            stats=ReplyStats.of_usage(outcome.usage, stream.ttft_s) if known else None,
        )
        self._stream = self._task = None
        self._pump()

    def _end(self, reply_id: str, status: Status, **fields: Any) -> None:
        reply = self._replies.pop(reply_id)
        known = self._state.messages.get(reply_id)
        # It may have been deleted while it ran; who awaits it gets what there was.
        message = replace(known or Message(reply_id, "assistant", ""), status=status, **fields)
        if known is not None:
            self._state = self._state.put(message)
            self._listener.on_change()
            self._listener.on_end(reply)
        reply._settle(message)


def _is_loading(snapshot: EngineSnapshot) -> bool:
    # An engine is `idle` for a moment before it starts, and between `starting` and `loading`; only
    # then does it have a model.
    pending = snapshot.state == "idle" and snapshot.model_id is not None
    return pending or snapshot.state in ("starting", "loading")


def _check_text(text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadRequestError(f"text = {text!r}: write a message first.", param="text")

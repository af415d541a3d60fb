"""The reply that the engine is making."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.outcome import Outcome, outcome_of
from mlc_widget.widget.reply_buffer import ReplyBuffer
from mlc_widget.widget.reply_stream import stream_reply
from mlc_widget.widget.state import ChatState


class RunningReply:
    """A reply's growing text, and the task that reads it from the engine.

    Its methods belong to the I/O thread; `merged` and `live` may be called on any.

    Args:
        reply_id: The reply.
        tree: The messages; has the reply.
        listener: Hears of its text.
    """

    def __init__(self, reply_id: str, tree: MessageTree, listener: ChatListener) -> None:
        self.id = reply_id
        self._tree, self._listener = tree, listener
        self.buffer = ReplyBuffer(reply_id, on_delta=self._on_delta, on_mirror=listener.on_mirror)
        self._task: asyncio.Task[Outcome] | None = None

    def start(
        self, link: EngineLink, request: JSONDict, on_end: Callable[[Outcome], object]
    ) -> None:
        """Have the engine answer.

        Args:
            link: To the engine.
            request: A streaming chat request.
            on_end: Called once, with how it ended.
        """
        generating = stream_reply(
            link,
            request,
            self.buffer,
            on_change=self._listener.on_change,
            on_resumed=self._note_resumed,
        )
        self._task = asyncio.create_task(generating)

        def ended(task: asyncio.Task[Outcome]) -> None:
            # A callback, as a task that is cancelled early never runs.
            on_end(Outcome("stopped") if task.cancelled() else outcome_of(task))

        self._task.add_done_callback(ended)

    def stop(self) -> None:
        """Stop it; the text so far is kept."""
        if self._task is not None:
            self._task.cancel()

    def merged(self, state: ChatState) -> ChatState:
        """A state that includes the text so far, while the reply grows."""
        message = state.messages.get(self.id)
        if message is None or message.status != "running":
            return state
        message = replace(message, **self.buffer.fields())
        return replace(state, messages={**state.messages, message.id: message})

    @property
    def live(self) -> JSONDict:
        """The whole text and thoughts so far; empty if this is not on the shown path."""
        if not self._is_shown():
            return {}
        fields = self.buffer.fields()
        return {
            "reply": self.id,
            **{name: fields[name] for name in ("text", "reasoning", "repeats")},
        }

    def _is_shown(self) -> bool:
        state = self._tree.state
        message = state.messages.get(self.id)
        if message is None or message.status != "running":
            return False
        return state.head == self.id or any(m.id == self.id for m in state.path())

    def _on_delta(self, delta: JSONDict) -> None:
        # Of a reply in another branch the page learns when that branch is shown.
        if self._is_shown():
            self._listener.on_delta(delta)

    def _note_resumed(self, exact: bool) -> None:
        message = self._tree.state.messages.get(self.id)
        if message is not None:  # it may have been deleted
            self._tree.change(self.id, resumed=exact and message.resumed is not False)
            self._listener.on_change()

"""The replies that are still to be made, one at a time, in the order in which they were asked for.

On the I/O thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.errors import ModelNotLoadedError
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.outcome import Outcome
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.running_reply import RunningReply
from mlc_widget.widget.state import Message, ReplyStats, Status

Advice: TypeAlias = Callable[[Sequence[str]], str]
"""Says how to load models in this place; it gets the names of those that were loaded last."""


class ReplyQueue:
    """Makes replies when the engine is ready for them.

    A reply waits while an earlier one runs, while the engine loads, and while functions are making
    the calls of a reply before it.

    Args:
        link: To the engine.
        tree: The messages; replies are among them.
        listener: Hears of what changes.
        options_of: The options of a reply.
        advice: What a reply that found no model tells the user to do.

    Attributes:
        running: The reply that is being made, if any; may be read on any thread.
    """

    def __init__(
        self,
        link: EngineLink,
        tree: MessageTree,
        listener: ChatListener,
        options_of: Callable[[str], ChatOptions],
        advice: Advice,
    ) -> None:
        self._link, self._tree, self._listener = link, tree, listener
        self._options_of, self._advice = options_of, advice
        self._last_models = link.snapshot.models
        self._waiting: deque[str] = deque()
        self._replies: dict[str, Reply] = {}
        self.running: RunningReply | None = None
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

    def add(self, reply: Reply, *, first: bool = False) -> None:
        """Have a reply made, after all others or before those that wait."""
        self._replies[reply.id] = reply
        reply._begin()
        if first:
            self._waiting.appendleft(reply.id)
        else:
            self._waiting.append(reply.id)
        self.pump()

    def answers(self, message_id: str) -> bool:
        """Whether a reply to this message waits."""
        messages = self._tree.state.messages
        return any(messages[reply_id].parent == message_id for reply_id in self._waiting)

    def stop(self, reply_id: str | None = None) -> None:
        """Stop one reply, or the running one and all that wait."""
        for waiting in list(self._waiting):
            if reply_id in (None, waiting):
                self._waiting.remove(waiting)
                self._end(waiting, "stopped")
        if self.running is not None and reply_id in (None, self.running.id):
            self.running.stop()

    def pump(self) -> None:
        """Start the next reply if none is running and the engine is not loading."""
        snapshot = self._link.snapshot
        if self.running is not None or is_loading(snapshot):
            return
        reply_id = next((waiting for waiting in self._waiting if self._may_begin(waiting)), None)
        if reply_id is None:
            return
        self._waiting.remove(reply_id)
        if snapshot.state == "idle" and snapshot.error is not None:
            self._end(reply_id, "error", error=snapshot.error)
            self.pump()
            return
        self._run(reply_id)

    def _run(self, reply_id: str) -> None:
        options, state = self._options_of(reply_id), self._tree.state
        request = options.request(state.path(state.messages[reply_id].parent))
        running = self.running = RunningReply(reply_id, self._tree, self._listener)
        self._tree.change(reply_id, status="running", json=options.schema is not None)
        running.start(self._link, request, self._on_generated)
        self._listener.on_change()

    def _may_begin(self, reply_id: str) -> bool:
        """Whether no functions are still making calls of an earlier reply."""
        return not any(message.calling for message in self._tree.state.path(reply_id))

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        self._last_models = snapshot.models or self._last_models
        if snapshot.state == "terminated":
            self.stop()
        else:
            # Not now: an engine passes through `idle` on its way from `starting` to `loading`.
            asyncio.get_running_loop().call_soon(self.pump)

    def _on_generated(self, outcome: Outcome) -> None:
        """Record how the running reply ended, and start the next."""
        assert self.running is not None, "it is the one that has ended"
        buffer = self.running.buffer
        buffer.close()
        known = outcome.usage or buffer.ttft_s is not None
        self._end(
            self.running.id,
            outcome.status,
            **buffer.fields(),
            tokens=tuple(buffer.tokens),
            finish=outcome.finish,
            error=self._advised(outcome.error, self._options_of(self.running.id).model),
            stats=ReplyStats.of_usage(outcome.usage, buffer.ttft_s) if known else None,
        )
        self.running = None
        self.pump()

    def _advised(self, error: BaseException | None, model: str | None) -> BaseException | None:
        """The error of a reply; if no model is loaded, one that says what to do in this place.

        Args:
            error: The error.
            model: The model that was to answer, if one was named.
        """
        snapshot = self._link.snapshot
        failed = snapshot.failed
        if isinstance(error, ModelNotLoadedError) and failed and failed.model_id == model:
            why = f"{error.message} Its load failed: {failed.error.message}"
            return ModelNotLoadedError(why, param=error.param)
        advice = self._advice(self._last_models)
        if not isinstance(error, ModelNotLoadedError) or error.param is not None or not advice:
            return error
        if snapshot.model_id is not None and snapshot.state != "idle":
            return error  # it is still loading
        failure = "" if snapshot.error is None else f" The last failure: {snapshot.error.message}"
        return ModelNotLoadedError(f"No model is loaded. {advice}{failure}")

    def _end(self, reply_id: str, status: Status, **fields: Any) -> None:
        reply = self._replies.pop(reply_id)
        message = self._tree.change(reply_id, status=status, **fields)
        if message is not None:
            self._listener.on_change()
            self._listener.on_end(reply)
        else:  # it was deleted while it ran; who awaits it gets what there was
            message = replace(Message(reply_id, "assistant", ""), status=status, **fields)
        reply._settle(message)


def is_loading(snapshot: EngineSnapshot) -> bool:
    """Whether an engine loads, or is about to."""
    # An engine is `idle` for a moment before it starts, and between `starting` and `loading`; only
    # then does it have a model.
    pending = snapshot.state == "idle" and snapshot.model_id is not None
    return pending or snapshot.state in ("starting", "loading")

"""A conversation with an engine, on the I/O thread; widgets show it and send it intents."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.errors import EngineTerminatedError
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.mcp_client import MCPServer
from mlc_widget.widget.approvals import Approvals
from mlc_widget.widget.call_turns import may_call, result_turn
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.chat_tools import servers_of
from mlc_widget.widget.history import NOTHING_SAID, Conversation
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.options import with_options
from mlc_widget.widget.questions import Question, check_text
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.reply_queue import Advice, ReplyQueue
from mlc_widget.widget.state import ChatState, Message
from mlc_widget.widget.title import check_title


class ChatSession:
    """Owns a conversation's state: its messages, the replies that are still to come, its options.

    `state`, `live` and `options` may be read on any thread; all methods belong to the I/O thread.
    Replies are made one at a time, in the order in which they were asked for.
    """

    def __init__(
        self,
        link: EngineLink,
        listener: ChatListener,
        options: ChatOptions,
        earlier: Conversation = NOTHING_SAID,
        advice: Advice = lambda _: "",
    ) -> None:
        self.options = options
        self._link = link
        self._listener = listener
        self._tree = MessageTree(earlier.messages, earlier.title)
        self._queue = ReplyQueue(link, self._tree, listener, self.options_of, advice)
        self._reply_options: dict[str, ChatOptions] = {}
        self.approvals = Approvals(self._tree, listener)
        self._calling: dict[str, Callable[[], object]] = {}
        """What stops the calls that are being made, by their replies."""
        self._servers: set[MCPServer] = set()
        self._unobserve: Callable[[], object] | None = None

    def start(self) -> None:
        """Start following the engine."""
        self._queue.start()
        self._unobserve = self._link.observe(self._on_engine)

    def close(self) -> None:
        """Stop everything, and stop following the engine."""
        self.stop()
        self._queue.close()
        self._leave_servers()
        if self._unobserve is not None:
            self._unobserve()
            self._unobserve = None

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        if snapshot.state == "terminated":
            self.stop()
            self._leave_servers()

    def _use_servers(self, options: ChatOptions) -> None:
        for server in servers_of(options.tools):
            self._servers.add(server)
            server.use(self)

    def _leave_servers(self) -> None:
        while self._servers:
            self._servers.pop().leave(self)

    @property
    def state(self) -> ChatState:
        """The conversation, including the growing reply's text so far."""
        running = self._queue.running  # before the state: a reply that ends changes the state first
        state = self._tree.state
        return state if running is None else running.merged(state)

    @property
    def live(self) -> JSONDict:
        """The growing reply's whole text and thoughts; empty if nothing grows on the shown path."""
        running = self._queue.running
        return {} if running is None else running.live

    def message(self, message_id: str) -> Message:
        """One message as it is now."""
        return self.state.messages.get(message_id) or Message(message_id, "assistant", "")

    def options_of(self, reply_id: str) -> ChatOptions:
        """The options of a reply."""
        return self._reply_options.get(reply_id, self.options)

    def send(self, question: Question | str, options: ChatOptions | None = None) -> Reply:
        """Add a message and queue its reply.

        Args:
            question: The message; a text is sent as it is.
            options: The options of this reply; by default those of the session.

        Raises:
            BadRequestError: the text is empty.
            EngineTerminatedError: the engine was terminated.
        """
        user = self._next_message(question)
        return self._ask(user, options=options)

    def check_send(self, question: Question | str) -> None:
        """Check that `send` would take a message; raises what it would raise."""
        self._next_message(question)

    def take_up(self, earlier: Conversation) -> None:
        """Show an earlier conversation; its system prompt counts if there is none yet."""
        self._tree.show(earlier.messages, earlier.title)
        if earlier.system and not self.options.system:
            self.set_option("system", earlier.system)
        self._listener.on_change()

    def adopt(self, path: Sequence[Message]) -> None:
        """Show a path of this conversation to which another session has added messages."""
        known = self._tree.state.messages
        self._tree.show([message for message in path if message.id not in known])
        if path:
            self._tree.select(path[-1].id)
        self._listener.on_change()

    def rename(self, title: Any) -> None:
        """Give the shown conversation a title; "" or None leaves it to the first question.

        Raises:
            BadRequestError: it is not a string, or too long.
        """
        self._tree.rename(check_title(title))
        self._listener.on_change()

    def retry(self, message_id: str) -> Reply:
        """Regenerate a reply, in a branch beside the old one, or make a message's first reply.

        Raises:
            BadRequestError: there is no such message, or its reply has not ended.
            EngineTerminatedError: the engine was terminated.
        """
        old = self._tree.find(message_id)
        if old.status in ("queued", "running"):
            raise bad("reply", message_id, "it has not ended yet.")
        self.check_alive()
        if old.role != "assistant":
            return self._ask(old)
        assert old.parent is not None, "a reply follows a message"
        options = self._reply_options.get(message_id)
        return self._ask(self._tree.state.messages[old.parent], options=options)

    def edit(self, message_id: str, question: Question | str) -> Reply:
        """Send a new version of a message, in a branch beside the old one.

        Raises:
            BadRequestError: there is no such user message, or the question is empty.
            EngineTerminatedError: the engine was terminated.
        """
        new = _user_message(question, self.question(message_id).parent)
        self.check_alive()
        return self._ask(new)

    def question(self, message_id: Any) -> Message:
        """A message of the user's.

        Raises:
            BadRequestError: there is none.
        """
        found = self._tree.find(message_id)
        if found.role != "user":
            raise bad("message", message_id, "only messages of the user can be edited.")
        return found

    def give_results(self, message_id: str, results: Any) -> Reply:
        """Add the results of a reply's tool calls, and queue the reply to them.

        Raises:
            BadRequestError: there is no such reply, it makes no calls, or results are missing.
            EngineTerminatedError: the engine was terminated.
        """
        old = self._tree.find(message_id)
        turn = result_turn(old, results)
        self.check_alive()
        waiting = [
            message.id
            for message in self._tree.state.messages.values()
            if message.parent == old.id and self._queue.answers(message.id)
        ]
        return self._ask(*turn, options=self._reply_options.get(message_id), before=waiting)

    def begin_calls(self, message_id: str, stop: Callable[[], object]) -> bool:
        """Note that a reply's calls are being made; returns False after too many turns.

        Args:
            message_id: The reply.
            stop: Has them given up.
        """
        if not may_call(self._tree.state, message_id):
            return False
        self._calling[message_id] = stop
        self._tree.change(message_id, calling=True)
        self._listener.on_change()
        return True

    def end_calls(self, message_id: str, results: Sequence[str] | None) -> Reply | None:
        """Note that the calls have been made, and add their results.

        Args:
            message_id: The reply; ignored if it was deleted, or has results already.
            results: One text per call; None if the user must give them.

        Returns:
            The reply to the results, if there will be one.
        """
        self._calling.pop(message_id, None)
        message = self._tree.state.messages.get(message_id)
        following = None
        if message is not None and message.calling:
            self._tree.change(message_id, calling=False, calls_stopped=results is None)
            if results is not None:
                with contextlib.suppress(EngineTerminatedError):
                    following = self.give_results(message_id, results)
            self._queue.pump()  # what waited for the results
            self._listener.on_change()
        return following

    def select(self, message_id: str) -> None:
        """Show the branch that contains this message.

        Raises:
            BadRequestError: there is no such message.
        """
        self._tree.select(message_id)
        self._listener.on_change()

    def begin_anew(self) -> None:
        """Show an empty conversation; the earlier one stays in a branch beside it."""
        self._tree.begin_anew()
        self._listener.on_change()

    def delete(self, message_id: str) -> None:
        """Delete a message and all that follow it; replies that are being made there stop.

        Raises:
            BadRequestError: there is no such message.
        """
        for gone in self._tree.state.subtree(self._tree.find(message_id).id):
            self.stop(gone)
        self._tree.delete(message_id)
        self._listener.on_change()

    def set_option(self, name: str, value: Any) -> None:
        """Change one setting for replies that start from now on.

        Raises:
            BadRequestError: A setting is invalid; the message has its value and the valid ones.
        """
        self.options = with_options(self.options, **{name: value})
        self._listener.on_options()

    def use_model(self, model: str | None) -> None:
        """Have another of the engine's models answer from now on; None for its only one."""
        self.options = replace(self.options, model=model)

    def stop(self, reply_id: str | None = None) -> None:
        """Stop one reply and its calls, or the running one, all that are queued, and all calls."""
        self._queue.stop(reply_id)
        for calling, stop in list(self._calling.items()):
            if reply_id in (None, calling):
                stop()

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
        self._use_servers(self.options if options is None else options)
        if options is not None:
            self._reply_options[answer.id] = options
        self._tree.add_turn(turn, answer, before)
        reply = Reply(
            answer.id, self.message, lambda reply_id: self._link.call_soon(self.stop, reply_id)
        )
        self._queue.add(reply, first=bool(before))
        self._listener.on_change()
        return reply

    def _next_message(self, question: Question | str) -> Message:
        user = _user_message(question, self._tree.state.head)
        self.check_alive()
        return user

    def check_alive(self) -> None:
        """Check that the engine may still answer.

        Raises:
            EngineTerminatedError: the engine was terminated.
        """
        if self._link.snapshot.state == "terminated":
            error = self._link.snapshot.error
            raise EngineTerminatedError(error.message if error else "The engine was terminated.")


def _user_message(question: Question | str, parent: str | None) -> Message:
    if not isinstance(question, Question):
        check_text(question)
        question = Question(question)
    return Message(
        uuid.uuid4().hex,
        "user",
        question.text,
        parent=parent,
        prompt=question.prompt,
        attachments=question.attachments,
    )

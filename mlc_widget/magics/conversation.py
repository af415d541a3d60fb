"""The conversation that `%%chat` has with an engine; each cell shows its own reply."""

from __future__ import annotations

import contextvars
import shlex
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mlc_widget.widget.calls import ToolCaller
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.link import link_of
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.session import ChatSession
from mlc_widget.widget.user_callbacks import UserCallbacks

if TYPE_CHECKING:
    from mlc_widget.api.linked_engine import LinkedEngine
    from mlc_widget.api.requests import JSONDict


class ConversationView(Protocol):
    """Shows a part of a conversation. Its methods are called on the I/O thread."""

    def on_change(self) -> None:
        """Messages were added or removed, or have ended."""

    def on_delta(self, delta: JSONDict) -> None:
        """A reply has new text."""

    def on_mirror(self) -> None:
        """The growing reply should be synced."""


class Conversation:
    """A session that several widgets show, as a `ChatWidget` shows its own.

    Args:
        engine: The engine that answers.
        name_of: Gives the engine's name where `%mlc load` needs it, on any thread.
    """

    def __init__(
        self, engine: LinkedEngine, name_of: Callable[[], str | None] = lambda: None
    ) -> None:
        self._views: weakref.WeakSet[ConversationView] = weakref.WeakSet()
        self.link = link_of(engine)
        """The link to the engine, which it does not keep alive."""
        self.name_of = name_of
        self.session = ChatSession(
            self.link,
            ChatListener(
                on_change=lambda: self._each(lambda view: view.on_change()),
                on_delta=lambda delta: self._each(lambda view: view.on_delta(delta)),
                on_mirror=lambda: self._each(lambda view: view.on_mirror()),
                on_end=self._on_end,
            ),
            ChatOptions(),
            advice=lambda models: advice(models, name_of()),
        )
        self._cells: dict[str, contextvars.Context] = {}
        """The views, by the questions that were asked in them."""
        self._functions = ToolCaller(self.link, self.session, UserCallbacks())
        self.link.call_soon(self.session.start)

    def ask(self, text: str, options: ChatOptions) -> Reply:
        """Add a message; its reply is made after earlier ones.

        The functions among `options.tools` are called with the context variables of this call, so
        that what they print belongs to its cell.

        Raises:
            EngineTerminatedError: the engine was terminated.
        """
        cell = contextvars.copy_context()

        async def take() -> Reply:
            reply = self.session.send(text, options)
            question = self.session.state.question(reply.id)
            assert question is not None, "it is the one that was sent"
            self._cells[question] = cell
            return reply

        return self.link.submit(take()).result()

    def add(self, view: ConversationView) -> None:
        """Add a widget that shows the conversation."""
        self._views.add(view)

    def stop(self) -> None:
        """Stop the running reply and all that are queued."""
        self.link.call_soon(self.session.stop)

    def leave(self) -> None:
        """End the conversation; what was said stays where it is shown."""
        self.link.call_soon(self.session.close)

    def _on_end(self, reply: Reply) -> None:
        question = self.session.state.question(reply.id)
        if question in self._cells:
            self._functions.answer(reply, self._cells[question])

    def _each(self, tell: Callable[[ConversationView], object]) -> None:
        for view in list(self._views):
            tell(view)


def advice(models: Sequence[str], to: str | None) -> str:
    """What to do when no model is loaded.

    Args:
        models: Those that were loaded last.
        to: The name of the engine, if it must be given.
    """
    words = [*(models or ("demo",)), *(() if to is None else ("--to", to))]
    return f"Run `%mlc load {shlex.join(words)}`, and then press Try again."

"""`CompareWidget`: the same message, answered by two chats side by side.

Traits for the page, beside those of `PageWidget`: ``_chats``, the two `ChatWidget`s, and
``_chosen``, ``{"chat"}`` with the index of the one that goes on alone, or None. Each chat sends its
own state, and takes its own intents; this widget takes ``choose {chat}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import traitlets

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad, shortened
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.widget.base import PageWidget, mirror
from mlc_widget.widget.chat import ChatWidget, send_to_all
from mlc_widget.widget.intents import Handler
from mlc_widget.widget.page_session import why_no_page
from mlc_widget.widget.stand_in import show_widget
from mlc_widget.widget.transcript_output import in_console, in_notebook


class CompareWidget(PageWidget):
    """Two chats side by side with one box to write in, whose messages go to both.

    With chats on one engine, both requests are computed in one batch; with two engines, two
    workers share the machine. Each chat keeps its settings, its Stop and its figures. "Continue
    with A" or "B" shows that chat alone, to which all messages go from then on.

    Args:
        first: A chat, for example ``ChatWidget(engine, temperature=0)``.
        second: Another one, on the same engine or on another.

    Raises:
        TypeError: an argument is not a `ChatWidget`.
        BadRequestError: both are the same chat.
    """

    _view = traitlets.Unicode("compare", read_only=True).tag(sync=True)
    _chats = traitlets.Tuple(read_only=True).tag(sync=True, **ipywidgets.widget_serialization)
    _chosen = mirror("_chosen")

    @releases_locals
    def __init__(self, first: ChatWidget, second: ChatWidget) -> None:
        for name, chat in (("first", first), ("second", second)):
            if not isinstance(chat, ChatWidget):
                raise TypeError(
                    f"{name} = {shortened(chat)}: must be a ChatWidget, such as "
                    "ChatWidget(engine, temperature=0)."
                )
        if first is second:
            raise BadRequestError("second: give another chat than the first.", param="second")
        self._index: int | None = None
        self.set_trait("_chats", (first, second))
        mirrors = {"_chosen": lambda: {"chat": self._index}}
        super().__init__(first.engine_link.call_soon, mirrors)

    def _intents(self) -> Mapping[str, Handler]:
        return {**super()._intents(), "choose": self._choose_from_page}

    @property
    def chats(self) -> tuple[ChatWidget, ChatWidget]:
        """The two chats."""
        first, second = self._chats
        return first, second

    @property
    def chosen(self) -> ChatWidget | None:
        """The chat that goes on alone, or None while there are two."""
        return None if self._index is None else self.chats[self._index]

    def choose(self, chat: ChatWidget | None) -> None:
        """Go on with one of the chats; what the other one is writing stops.

        Args:
            chat: One of `chats`, or None to go on with both.

        Raises:
            BadRequestError: it is none of them.
        """
        if chat is None:
            self._set_index(None)
            return
        found = [index for index, own in enumerate(self.chats) if own is chat]
        if not found:
            raise bad("chat", chat, "give one of `chats`, or None.")
        self._set_index(found[0])

    def _choose_from_page(self, intent: JSONDict) -> None:
        index = intent.get("chat")
        if index is not None and (type(index) is not int or index not in (0, 1)):
            raise bad("chat", index, "must be 0, 1 or null.")
        self._set_index(index)

    def _set_index(self, index: int | None) -> None:
        if index is not None:
            self.chats[1 - index].stop()
        self._index = index
        self.send_state("_chosen")

    def send(self, content: Any, buffers: Any = None) -> Any:
        """Send a message to both chats, or to the chosen one; a dict is sent to the page.

        If one of them cannot take it, none gets it. (On the page, the other one does.)

        Returns:
            The `Reply` of each chat, in a tuple.

        Raises:
            BadRequestError: `content` is empty.
            EngineTerminatedError: an engine was terminated.
        """
        if isinstance(content, dict):
            return super().send(content, buffers=buffers)
        return send_to_all(self._asked(), content)

    def stop(self) -> None:
        """Stop what the chats are writing. Their text so far is kept."""
        for chat in self._asked():
            chat.stop()

    def _asked(self) -> tuple[ChatWidget, ...]:
        return self.chats if self.chosen is None else (self.chosen,)

    def _ipython_display_(self) -> None:
        """Show the widget, and below it the transcripts of both chats."""
        if not in_notebook():
            print(repr(self))
            return
        if in_console():
            print("\n\n".join(chat.export() for chat in self.chats))
            return
        show_widget(self, "Run this cell again to go on with these chats.")
        for chat in self.chats:
            chat.show_transcript()

    def __repr__(self) -> str:
        first, second = self.chats
        return why_no_page() or f"<CompareWidget of {first!r} and {second!r}>"

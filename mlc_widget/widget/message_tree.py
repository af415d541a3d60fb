"""The tree of a chat's messages as it grows; on the I/O thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlc_widget.api.request_values import bad
from mlc_widget.widget.state import ChatState, Message


class MessageTree:
    """Holds the newest `ChatState`.

    `state` may be read on any thread; what it gives is immutable.

    Args:
        history: Messages that are there already, in the order in which they follow each other.
        title: The title that was given to them.
    """

    def __init__(self, history: Sequence[Message] = (), title: str = "") -> None:
        self.state = ChatState()
        self.show(history, title)

    def show(self, history: Sequence[Message], title: str = "") -> None:
        """Add messages that follow each other from the beginning, and show them."""
        if history:
            self.state = self.state.put(*history, head=history[-1].id)
        if title:
            self.state = self.state.entitled(title)

    def find(self, message_id: Any) -> Message:
        """A message.

        Raises:
            BadRequestError: there is no such message.
        """
        message = self.state.messages.get(message_id) if isinstance(message_id, str) else None
        if message is None:
            raise bad("message", message_id, "no such message.")
        return message

    def add_turn(self, turn: Sequence[Message], answer: Message, before: Sequence[str]) -> None:
        """Add messages and the answer to them, and show the answer.

        Args:
            turn: The messages.
            answer: Follows the last of them.
            before: Waiting messages that move behind the answer. If one of them was shown, it is
                still shown.
        """
        head = self.state.head
        given = self.state.given_title if turn[0].parent is None else ""
        self.state = self.state.put(*turn, answer, head=answer.id)
        if given:  # another version of the first message, or the first one
            self.state = self.state.entitled(given)
        for message_id in before:
            self.state = self.state.behind(answer.id, message_id)
            if head in self.state.subtree(message_id):
                self.state = self.state.put(head=head)

    def change(self, message_id: str, **fields: Any) -> Message | None:
        """Change fields of a message; returns it, or None if it was deleted."""
        message = self.state.messages.get(message_id)
        if message is None:
            return None
        changed = replace(message, **fields)
        self.state = self.state.put(changed)
        return changed

    def select(self, message_id: Any) -> None:
        """Show the branch that contains this message.

        Raises:
            BadRequestError: there is no such message.
        """
        self.state = self.state.select(self.find(message_id).id)

    def rename(self, title: str) -> None:
        """Give the shown conversation a title; "" leaves it to the first question."""
        self.state = self.state.entitled(title)

    def begin_anew(self) -> None:
        """Show no message, so that the next one begins another conversation."""
        self.state = self.state.without_path()

    def delete(self, message_id: str) -> None:
        """Delete a message and all that follow it."""
        self.state = self.state.without(message_id)

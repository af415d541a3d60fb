"""Which calls of tools wait for the user's decision; on the I/O thread."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.clients import client_of
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.page_session import why_no_page

DECISIONS: Final = ("once", "always", "never")


@dataclass(frozen=True, slots=True)
class Question:
    """A call that the user is asked about.

    Attributes:
        call: Its place among the reply's calls.
        server: The server's name.
        tool: The tool's name, as the server has it.
        arguments: What would be sent, as text.
        key: What "always" applies to.
    """

    call: int
    server: str
    tool: str
    arguments: str
    key: Hashable

    def to_json(self) -> JSONDict:
        """The question in the page's format."""
        return {
            "call": self.call,
            "server": self.server,
            "tool": self.tool,
            "arguments": self.arguments,
        }


class Approvals:
    """The user's decisions in one chat.

    Args:
        tree: The messages; a reply shows its questions.
        listener: Hears of them.
    """

    def __init__(self, tree: MessageTree, listener: ChatListener) -> None:
        self._tree, self._listener = tree, listener
        self._always: set[Hashable] = set()
        self._waiting: dict[tuple[str, int], tuple[Question, asyncio.Future[bool]]] = {}

    async def is_allowed(self, reply_id: str, question: Question) -> bool:
        """Whether a reply's call may be made; asks the user unless they said "always"."""
        if question.key in self._always:
            return True
        decision: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[reply_id, question.call] = question, decision
        self._show(reply_id)
        try:
            return await decision
        finally:
            self._waiting.pop((reply_id, question.call), None)
            self._show(reply_id)

    def decide(self, reply_id: Any, call: Any, decision: Any) -> None:
        """Take the user's decision: ``once``, ``always`` (in this chat) or ``never``.

        Raises:
            BadRequestError: No such call waits, or there is no such decision.
        """
        if decision not in DECISIONS:
            raise bad("decision", decision, f"give {', '.join(DECISIONS)}.")
        known = isinstance(reply_id, str) and type(call) is int  # True would be 1
        if not known or (reply_id, call) not in self._waiting:
            raise bad("call", call, "no decision about it is needed.")
        question, _ = self._waiting[reply_id, call]
        if decision == "always":
            self._always.add(question.key)
        for at, (other, waiting) in self._waiting.items():
            alike = decision == "always" and other.key == question.key
            if (at == (reply_id, call) or alike) and not waiting.done():
                waiting.set_result(decision != "never")

    def _show(self, reply_id: str) -> None:
        questions = [q for (reply, _), (q, _) in self._waiting.items() if reply == reply_id]
        questions.sort(key=lambda question: question.call)
        self._tree.change(reply_id, questions=tuple(q.to_json() for q in questions))
        self._listener.on_change()


def can_ask(cell: contextvars.Context) -> bool:
    """Whether there is a page on which the user can decide about the calls of a cell's reply."""
    if why_no_page() is not None:
        return False
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "input_transformers_post"):
        return True  # an app, which has a page
    return hasattr(shell, "kernel") and cell.copy().run(client_of, shell) == "page"

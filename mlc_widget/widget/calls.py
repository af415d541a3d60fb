"""Answers a reply's tool calls with the notebook's own functions."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING

from mlc_widget.api.function_tools import call_function, functions_of

if TYPE_CHECKING:
    from mlc_widget.api.engine_link import EngineLink
    from mlc_widget.widget.reply import Reply
    from mlc_widget.widget.session import ChatSession
    from mlc_widget.widget.user_callbacks import UserCallbacks


class FunctionCaller:
    """Calls the functions that a session's replies ask for, where the user's callbacks run.

    Args:
        link: Leads to the session's thread.
        session: Gets the results.
        user: Calls the functions.
    """

    def __init__(self, link: EngineLink, session: ChatSession, user: UserCallbacks) -> None:
        self._link, self._session, self._user = link, session, user

    def answer(self, reply: Reply, cell: contextvars.Context) -> None:
        """Make an ended reply's calls if there is a function for each. On the I/O thread.

        Args:
            reply: The reply.
            cell: The context variables to call them with, so that they print to the right cell.
        """
        message = self._session.message(reply.id)
        functions = functions_of(self._session.options_of(reply.id).tools)
        names = {call["function"]["name"] for call in message.tool_calls}
        if not message.calls_are_whole or not names <= functions.keys():
            return
        if not self._session.begin_calls(message.id):
            return
        reply._expect_next()

        async def make() -> None:
            results: list[str] | None = None
            try:
                results = [await call_function(functions, call) for call in message.tool_calls]
            finally:  # an interrupt of the kernel ends them: then the page asks for the results
                with contextlib.suppress(RuntimeError):  # the I/O thread has ended
                    self._link.call_soon(self._take_results, reply, results)

        self._user.call(make, context=cell)

    def _take_results(self, reply: Reply, results: list[str] | None) -> None:
        reply._followed_by(self._session.end_calls(reply.id, results))

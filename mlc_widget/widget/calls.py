"""Answers a reply's tool calls with the notebook's own functions and the tools of MCP servers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.function_tools import FunctionTool, call_function, functions_of
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.approvals import Question, can_ask
from mlc_widget.widget.chat_tools import ServerTool, offered, read_arguments, shown_arguments

if TYPE_CHECKING:
    from mlc_widget.api.engine_link import EngineLink
    from mlc_widget.widget.reply import Reply
    from mlc_widget.widget.session import ChatSession
    from mlc_widget.widget.user_callbacks import UserCallbacks

REFUSED: Final = "Error: the user refused this call."
_NOT_ASKED: Final = (
    "Error: this call was not made, because there is no page on which to ask the user: use "
    "mcp(…, allow=[{name!r}])."
)


class ToolCaller:
    """Makes the calls that a session's replies ask for.

    Functions are called where the user's callbacks run, one after another. Calls of servers are
    made meanwhile, each once the user allows it, and do not wait for a running cell.

    Args:
        link: Leads to the session's thread.
        session: Gets the results.
        user: Calls the functions.
    """

    def __init__(self, link: EngineLink, session: ChatSession, user: UserCallbacks) -> None:
        self._link, self._session, self._user = link, session, user
        self._tasks: set[asyncio.Future[Any]] = set()

    def answer(self, reply: Reply, cell: contextvars.Context) -> None:
        """Make an ended reply's calls if all can be made here. On the I/O thread.

        Args:
            reply: The reply.
            cell: The context variables to call functions with, so that they print to the right
                cell.
        """
        message = self._session.message(reply.id)
        known = {t["function"]["name"]: t for t in self._tools(reply.id)}
        tools = [known.get(call["function"]["name"]) for call in message.tool_calls]
        can_make = all(isinstance(tool, FunctionTool | ServerTool) for tool in tools)
        if not message.calls_are_whole or not can_make:
            return
        task = asyncio.ensure_future(self._results(reply.id, message.tool_calls, tools, cell))
        if not self._session.begin_calls(message.id, task.cancel):
            task.cancel()
            return
        reply._expect_next()
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._take_results(reply, ended))

    def _tools(self, reply_id: str) -> list[JSONDict]:
        return offered(self._session.options_of(reply_id).tools)

    def _take_results(self, reply: Reply, ended: asyncio.Future[list[str] | None]) -> None:
        self._tasks.discard(ended)
        failed = ended.cancelled() or ended.exception() is not None
        reply._followed_by(self._session.end_calls(reply.id, None if failed else ended.result()))

    async def _results(
        self,
        reply_id: str,
        calls: Sequence[JSONDict],
        tools: Sequence[JSONDict | None],
        cell: contextvars.Context,
    ) -> list[str] | None:
        """The results of calls in their order; None if the user must give them."""
        of_functions = [i for i, tool in enumerate(tools) if isinstance(tool, FunctionTool)]
        functions = self._call_functions(reply_id, [calls[i] for i in of_functions], cell)
        servers = {
            i: self._call_server(reply_id, i, tool, calls[i]["function"]["arguments"], cell)
            for i, tool in enumerate(tools)
            if isinstance(tool, ServerTool)
        }
        made, *texts = await asyncio.gather(functions, *servers.values())
        if made is None:
            return None
        results = dict(zip((*of_functions, *servers), (*made, *texts), strict=True))
        return [results[i] for i in range(len(calls))]

    async def _call_functions(
        self, reply_id: str, calls: Sequence[JSONDict], cell: contextvars.Context
    ) -> list[str] | None:
        """The results of calls of functions; None if the kernel is interrupted meanwhile."""
        if not calls:
            return []
        functions = functions_of(self._tools(reply_id))
        ended: asyncio.Future[list[str] | None] = asyncio.get_running_loop().create_future()

        async def make() -> None:
            results: list[str] | None = None
            try:
                made: list[str] = []
                for call in calls:
                    if ended.cancelled():  # the user has stopped them
                        return
                    made.append(await call_function(functions, call))
                results = made
            finally:  # an interrupt of the kernel ends them: then the page asks for the results
                with contextlib.suppress(RuntimeError):  # the I/O thread has ended
                    self._link.call_soon(_end, ended, results)

        self._user.call(make, context=cell)
        return await ended

    async def _call_server(
        self, reply_id: str, at: int, tool: ServerTool, text: str, cell: contextvars.Context
    ) -> str:
        """The result of a server's tool, or why there is none."""
        server, name = tool.server, tool.tool.name
        try:
            arguments = read_arguments(text)
        except (ValueError, RecursionError) as error:
            return f"Error: the arguments are not a JSON object: {error}"
        if not tool.is_allowed:
            if not can_ask(cell):
                return _NOT_ASKED.format(name=name)
            key = (server, name, tool.tool.digest)  # a tool that changes is asked for again
            question = Question(at, server.name, name, shown_arguments(arguments), key)
            if not await self._session.approvals.is_allowed(reply_id, question):
                return REFUSED
        try:
            return await server.call(name, arguments)
        except MLCEngineError as error:
            return f"Error: {error.message}"


def _end(future: asyncio.Future[list[str] | None], results: list[str] | None) -> None:
    if not future.done():
        future.set_result(results)

"""The user's functions as tools of a map: which they are, and the calls of each reply."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeAlias

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.api.function_tools import (
    MAX_CALL_TURNS,
    FunctionTool,
    begin_call,
    error_text,
    functions_of,
    read_tools,
    result_text,
)
from mlc_widget.api.request_messages import messages
from mlc_widget.api.request_values import JSONDict, bad
from mlc_widget.api.table.report import MapReport

logger = logging.getLogger(__name__)

_TOO_MANY: Final = (
    f"The model called tools in {MAX_CALL_TURNS + 1} replies in a row without an answer: say in "
    "the prompt when it should answer, or give fewer tools."
)

Result: TypeAlias = str | Future[str]
"""A result of a call as text, or that of a coroutine function that still runs."""


def read_map_tools(tools: Any) -> list[JSONDict]:
    """Check the argument ``tools`` of a map; an empty list if there are none.

    Raises:
        BadRequestError: A tool is invalid, or has no function that makes its calls.
    """
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        for i, tool in enumerate(tools):
            if not callable(tool) and not isinstance(tool, FunctionTool):
                raise bad(
                    f"tools[{i}]",
                    tool,
                    "give a function, which the map calls; for structured replies without a "
                    "function use schema=.",
                )
    return ([] if tools is None else read_tools(tools)) or []


class ToolCalls:
    """Makes the calls of a map's replies.

    Args:
        tools: The checked tools.
        report: Counts the calls.
        loop: The caller's loop, which runs coroutine functions; None on a blocking engine.

    Raises:
        BadRequestError: There are coroutine functions, but no loop.
    """

    def __init__(
        self,
        tools: Sequence[JSONDict],
        report: MapReport,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._functions: Mapping[str, Callable[..., Any]] = functions_of(tools)
        self._report, self._loop = report, loop
        self._running: set[Future[str]] = set()
        for name, function in self._functions.items():
            if loop is None and inspect.iscoroutinefunction(function):
                raise BadRequestError(
                    f"tools: {name} is a coroutine function, which a blocking map cannot run; give "
                    "an ordinary function, or use an awaited engine.",
                    param="tools",
                )

    def make(self, calls: Sequence[JSONDict]) -> list[Result]:
        """Make calls on the current thread, one after the other; begin those of coroutines."""
        return [self._make(call) for call in calls]

    def cancel(self) -> None:
        """End the coroutine functions that still run, whether or not anything awaits them."""
        for future in list(self._running):
            future.cancel()

    def _make(self, call: JSONDict) -> Result:
        name = call["function"]["name"]
        self._report.tool_calls += 1
        try:
            result = begin_call(self._functions, call)
            if not inspect.isawaitable(result):
                return result_text(result)
            if self._loop is not None:
                waiting = self._awaited(name, result)
                future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
                self._running.add(future)
                future.add_done_callback(self._running.discard)
                return future
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("an awaitable was returned, which a blocking map cannot await")
        except Exception as error:
            return self._failed(name, error)

    async def _awaited(self, name: str, result: Awaitable[Any]) -> str:
        task = asyncio.current_task()
        try:
            return result_text(await result)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():  # the map has ended
                raise
            return self._failed(name, error)
        except Exception as error:
            return self._failed(name, error)

    def _failed(self, name: str, error: BaseException) -> str:
        text = error_text(error)
        if not self._report.tool_errors:
            logger.warning("The tool %s failed; the model is told: %.500s", name, text)
        self._report.tool_errors += 1
        return text


async def ask_with_results(
    core: EngineCore, request: JSONDict, message: Mapping[str, Any], results: Sequence[Result]
) -> JSONDict:
    """Ask again, with a reply's calls and their results. On the home loop.

    Args:
        core: The engine's core.
        request: The request that was answered, which becomes the next one.
        message: The answer.
        results: A result for each of its calls.

    Raises:
        BadRequestError: The messages are too large.
        MLCEngineError: What a chat request raises.
    """
    running = [asyncio.wrap_future(r) for r in results if isinstance(r, Future)]
    awaited = iter(await asyncio.gather(*running))
    texts = [next(awaited) if isinstance(result, Future) else result for result in results]
    earlier = len(request["messages"])
    # The engine's ids are random, while the same row must get the same reply.
    calls = [{**call, "id": f"call_{earlier}_{i}"} for i, call in enumerate(message["tool_calls"])]
    request["messages"] = messages(
        "messages",
        [
            *request["messages"],
            {"role": "assistant", "content": message.get("content"), "tool_calls": calls},
            *(
                {"role": "tool", "content": text, "tool_call_id": call["id"]}
                for call, text in zip(calls, texts, strict=True)
            ),
        ],
    )
    if request.get("tool_choice") != "none":
        request.pop("tool_choice", None)  # a call that was required has been made
    return await core.request("chat", request)


def check_turns(turns: int) -> None:
    """Refuse one more turn of calls after too many.

    Raises:
        MLCEngineError: There were too many.
    """
    if turns >= MAX_CALL_TURNS:
        raise MLCEngineError(_TOO_MANY, code="too_many_tool_calls")

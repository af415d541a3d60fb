"""One connection to a server, from its start until it ends; on the loop of `MCPServer`s."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import MCPServerError
from mlc_widget.mcp_client.descriptions import MAX_TOOLS
from mlc_widget.mcp_client.http import http_transport
from mlc_widget.mcp_client.process import ServerLog, ServerProcess

_PAGES: Final = 16
"""The most parts in which a server may list its tools."""


@dataclass(frozen=True)
class Target:
    """How to reach a server.

    Attributes:
        name: The server's name in messages.
        command: What starts it; empty for one that is reached by HTTP.
        url: Its address.
        env: More variables of its environment.
        cwd: The directory in which it runs.
        headers: Headers of HTTP.
    """

    name: str
    command: tuple[str, ...]
    url: str
    env: Mapping[str, str]
    cwd: str | None
    headers: Mapping[str, str]


class Connection:
    """A client of a running server.

    Args:
        target: The server.
        log: Gets its standard error.
    """

    def __init__(self, target: Target, log: ServerLog) -> None:
        self._target, self._log = target, log
        self._process: ServerProcess | None = None
        self._client: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._client.add_done_callback(lambda made: made.cancelled() or made.exception())
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._retired = False

    @property
    def alive(self) -> bool:
        """Whether calls can be made; a server that is reached by HTTP may be gone nevertheless."""
        running = self._process is None or self._process.returncode is None
        over = self._over.is_set() or self._retired
        return running and self._client.done() and not over

    async def open(self, timeout: float) -> None:
        """Start the server and shake hands.

        Args:
            timeout: The longest wait, in seconds.

        Raises:
            MCPServerError: It did not start in time.
        """
        self._task = asyncio.create_task(self._live())
        try:
            await asyncio.wait_for(asyncio.shield(self._client), timeout)
        except TimeoutError:
            await self.close()
            raise self._error(f"it was not ready within {timeout:g} seconds") from None
        except MCPServerError:
            await self.close()
            raise
        except BaseException:  # cancelled
            self._over.set()
            self._task.cancel()
            raise

    async def close(self) -> None:
        """End the connection, and the server if it was started here."""
        self._over.set()
        if self._task is not None:
            if not self._client.done():
                self._task.cancel()
            await asyncio.wait({self._task})

    def retire(self) -> None:
        """End the connection once what is in flight has been answered."""
        self._retired = True
        if not self._in_flight:
            self._over.set()

    def kill(self) -> None:
        """Kill the server at once; it may be called at the end of the interpreter."""
        if self._process is not None:
            self._process.kill()

    async def tools(self, timeout: float) -> list[Any]:
        """The tools that the server lists; a few more than are read at most.

        Raises:
            MCPServerError: It did not answer in time, or ended.
        """
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self._ask("list_tools", timeout, cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor or len(found) > MAX_TOOLS:
                break
        return found

    async def call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Call a tool; returns the `mcp.types.CallToolResult`.

        Raises:
            MCPServerError: It did not answer in time, ended, or refused the call.
        """
        return await self._ask("call_tool", timeout, name=name, arguments=dict(arguments))

    async def _ask(self, method: str, timeout: float, **arguments: Any) -> Any:
        client = await self._client
        asked = asyncio.ensure_future(getattr(client, method)(**arguments))
        ending = asyncio.ensure_future(self._over.wait())
        self._in_flight += 1
        try:
            await asyncio.wait({asked, ending}, timeout=timeout, return_when="FIRST_COMPLETED")
            if asked.done():
                return asked.result()
            if self._over.is_set():
                raise self._error(self._why_over())
            raise self._error(f"it did not answer within {timeout:g} seconds")
        except MCPServerError:
            raise
        except Exception as error:
            raise await self._error_of(error) from error
        finally:
            asked.cancel()
            ending.cancel()
            with contextlib.suppress(BaseException):
                await asked
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                self._over.set()

    async def _error_of(self, error: BaseException) -> MCPServerError:
        if isinstance(error, MCPServerError):
            return error
        process = self._process
        # That it has ended is known a moment after its pipes have closed.
        over = process is not None and _is_lost(error) and await process.ends_within(1.0)
        return self._error(self._why_over() if over else _said(error))

    async def _live(self) -> None:
        try:
            async with self._client_of_server() as client:
                self._client.set_result(client)
                await self._over.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self._client.done():
                self._client.set_exception(await self._error_of(_first(error)))
        finally:
            self._over.set()
            if not self._client.done():
                self._client.set_exception(self._error("it was ended while it started"))
            if self._process is not None:
                await asyncio.shield(asyncio.ensure_future(self._process.end()))

    @contextlib.asynccontextmanager
    async def _client_of_server(self) -> AsyncIterator[Any]:
        from mcp import Client, types

        target = self._target
        us = types.Implementation(name="mlc_widget", version="0")
        if not target.command:
            async with Client(http_transport(target.url, target.headers), client_info=us) as client:
                yield client
            return
        try:
            process = await ServerProcess.start(target.command, _env(target), target.cwd, self._log)
        except FileNotFoundError:
            raise self._error(
                f"{target.cwd or target.command[0]!r} was not found; give the path of the command"
            ) from None
        except OSError as error:
            raise self._error(f"{target.command[0]!r} cannot be started: {error}") from None
        self._process = process
        ended = asyncio.ensure_future(process.ended())
        ended.add_done_callback(self._on_end)
        try:
            async with Client(process.transport(), client_info=us) as client:
                yield client
        finally:
            ended.cancel()

    def _on_end(self, ended: asyncio.Future[None]) -> None:
        if not ended.cancelled():
            self._over.set()

    def _why_over(self) -> str:
        process = self._process
        if process is None:
            return "the connection was closed"
        if process.fault:
            return process.fault
        code = process.returncode
        if code is None:
            return "it was ended"
        return f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"

    def _error(self, reason: str) -> MCPServerError:
        return MCPServerError(
            f"The MCP server {self._target.name!r}: {reason}.{self._log.last_lines}"
        )


def _env(target: Target) -> dict[str, str]:
    from mcp.client.stdio import get_default_environment

    return {**get_default_environment(), **target.env}


def _first(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_lost(error: BaseException) -> bool:
    """Whether an error may mean that the other side is gone, and not that it refuses."""
    from mcp import MCPError
    from mcp.types import CONNECTION_CLOSED

    return not isinstance(error, MCPError) or error.code == CONNECTION_CLOSED


def _said(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return (text or type(error).__name__)[:500]

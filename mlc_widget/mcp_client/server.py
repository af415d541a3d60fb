"""A server of the Model Context Protocol, as it is given to a chat."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import shlex
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.errors import BadRequestError, MCPServerError, RuntimeUnavailableError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.keywords import suggests_keywords
from mlc_widget.mcp_client.connection import Connection, Target
from mlc_widget.mcp_client.descriptions import MCPTool, read_descriptions
from mlc_widget.mcp_client.process import ServerLog
from mlc_widget.mcp_client.results import result_text

_EXIT_S: Final = 3.0
_PARK_S: Final = 2.0
_LAUNCHERS: Final = frozenset(
    {"uv", "uvx", "pipx", "npx", "bunx", "node", "deno", "docker", "sh", "bash"}
)
_VERBS: Final = frozenset({"run", "tool", "exec", "x"})

_guard = threading.Lock()
_home: HomeLoop | None = None
_slots: weakref.WeakSet[_Slot] = weakref.WeakSet()


def _home_of_all() -> HomeLoop:
    """The loop of all servers: what they send is read apart from the engine's loop."""
    global _home
    with _guard:
        if _home is None or _home.is_forked:
            _slots.clear()
            _home = HomeLoop("mlc_widget mcp")
        return _home


class MCPServer(NotCopyable):
    """A server whose tools a chat offers to its model; make one with `mcp`.

    It starts when its tools are first needed, and again if it has ended. It ends with the last chat
    that uses it, and with the notebook's kernel.

    Attributes:
        name: Its name in messages and, if two tools have one name, before the tool's.
        allowed: The names of the tools that are called without asking; None for all.
        known: Its tools, as they were listed last.
        left_out: Tools that it lists but that cannot be used, each with the reason.
    """

    _instead = "it is one program. Make another one with `mcp`."

    def __init__(
        self,
        target: Target,
        *,
        tools: Collection[str] | None,
        allowed: Collection[str] | None,
        timeout: float,
        start_timeout: float,
    ) -> None:
        self.name = target.name
        self.allowed = allowed
        self.known: tuple[MCPTool, ...] = ()
        self.left_out: dict[str, str] = {}
        self._target, self._wanted = target, tools
        self._timeout, self._start_timeout = timeout, start_timeout
        self._log = ServerLog()
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._slot = _Slot()
        self._home = _home_of_all()
        _slots.add(self._slot)
        weakref.finalize(self, _close_soon, self._home, self._slot).atexit = False

    @property
    def log(self) -> str:
        """The end of what it wrote to its standard error."""
        return self._log.text

    async def tools(self) -> tuple[MCPTool, ...]:
        """Its tools, on any loop; it is started if necessary.

        Raises:
            MCPServerError: It did not start or answer.
            BadRequestError: It lacks one of the tools that were chosen.
        """
        return await self._home.wait(self._list)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool, on any loop; returns the result as text.

        Raises:
            MCPServerError: It did not start, did not answer in time, or ended.
        """
        return await self._home.wait(lambda: self._call(tool, arguments))

    def use(self, user: object) -> None:
        """Keep it running for this user."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """This user no longer needs it; it ends if it was the last one."""
        self._users.discard(user)
        if not self._users:
            self.close()

    def close(self) -> None:
        """End it; it starts again when it is needed."""
        _close_soon(self._home, self._slot)

    def tools_now(self) -> tuple[MCPTool, ...]:
        """As `tools`, but block the calling thread meanwhile."""
        return self._home.wait_blocking(self._list)

    async def _list(self) -> tuple[MCPTool, ...]:
        connection = await self._slot.connected(self._new, self._start_timeout)
        if connection is self._slot.listed:
            return self.known
        listed = await connection.tools(self._timeout)
        found, self.left_out = read_descriptions(listed)
        if self._wanted is not None:
            self._check_wanted({tool.name for tool in found})
            found = tuple(tool for tool in found if tool.name in self._wanted)
        self.known = found
        self._slot.listed = connection
        return found

    def _check_wanted(self, found: Collection[str]) -> None:
        for name in self._wanted or ():
            if name in found:
                continue
            reason = self.left_out.get(name)
            said = f"has it, but {reason}" if reason else f"has no such tool; it has {_few(found)}"
            raise BadRequestError(
                f"tools = {name!r}: the MCP server {self.name!r} {said}.", param="tools"
            )

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        connection = await self._slot.connected(self._new, self._start_timeout)
        try:
            return result_text(await connection.call(tool, arguments, self._timeout))
        except MCPServerError:
            if self._target.url:  # it may have been started anew, and know nothing of this client
                self._slot.retire(connection)
            raise

    def _new(self) -> Connection:
        return Connection(self._target, self._log)

    def __repr__(self) -> str:
        return f"<MCPServer {self.name}: {len(self.known)} tools>"


class _Slot:
    """Where a server's connection is kept; its methods belong to the loop of all servers."""

    def __init__(self) -> None:
        self.listed: Connection | None = None
        """The connection whose tools are known."""
        self._opening: Connection | None = None
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def connected(self, make: Callable[[], Connection], timeout: float) -> Connection:
        """The living connection, or a new one, which is opened within some seconds."""
        async with self._lock:
            if self._connection is None or not self._connection.alive:
                await self._close_now()
                self._opening = connection = make()
                try:
                    await connection.open(timeout)
                finally:
                    self._opening = None
                self._connection = connection
            return self._connection

    async def close(self) -> None:
        """End the server, also while it starts."""
        if self._opening is not None:
            await self._opening.close()
        async with self._lock:
            await self._close_now()

    def retire(self, connection: Connection) -> None:
        """Use another connection from now on; calls that are in flight on this one go on."""
        if connection is self._connection:
            self._connection = self.listed = None
        connection.retire()

    async def _close_now(self) -> None:
        connection, self._connection, self.listed = self._connection, None, None
        if connection is not None:
            await connection.close()

    def kill(self) -> None:
        """Kill the server at once, from any thread."""
        for connection in (self._opening, self._connection):
            if connection is not None:
                connection.kill()


@suggests_keywords
def mcp(
    server: str | Sequence[str],
    *,
    name: str | None = None,
    tools: Collection[str] | None = None,
    allow: Collection[str] | bool = (),
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    start_timeout: float = 60.0,
) -> MCPServer:
    """A server of the Model Context Protocol, for a chat's `tools`.

    The chat shows each call of its tools with its arguments, and asks before it is made.

    Args:
        server: The command that starts it, as one text or as a list, or the address of one that is
            reached by streamable HTTP (``https://…``).
        name: A short name; by default that of its command or host.
        tools: The names of the tools to offer; all by default. A small model does better with few.
        allow: The names of the tools that may be called without asking, or True for all.
        env: More variables for its environment, which otherwise has only a few, such as PATH.
        cwd: The directory in which it runs.
        headers: Headers of HTTP, such as ``Authorization``.
        timeout: The longest wait for an answer, in seconds.
        start_timeout: The longest wait for its start, in seconds.

    Raises:
        BadRequestError: An argument is wrong; the message names it.
        RuntimeUnavailableError: The package mcp is not installed.
    """
    if importlib.util.find_spec("mcp") is None or importlib.util.find_spec("mcp_types") is None:
        raise RuntimeUnavailableError(
            'MCP servers need the package mcp, version 2: pip install "mlc-widget[mcp]"'
        )
    command, url = _command_or_url(server)
    for param, value in (("timeout", timeout), ("start_timeout", start_timeout)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86400:
            raise BadRequestError(f"{param} = {value!r}: give seconds, up to a day.", param=param)
    for param, mapping, needed, otherwise in (
        ("env", env, command, "a server that is started by a command"),
        ("cwd", cwd, command, "a server that is started by a command"),
        ("headers", headers, url, "a server with an address"),
    ):
        if mapping is not None and not needed:
            raise BadRequestError(f"{param}: only for {otherwise}.", param=param)
    target = Target(
        _checked_name(name, command, url),
        command,
        url,
        _texts("env", env),
        None if cwd is None else os.fspath(cwd),
        _texts("headers", headers),
    )
    return MCPServer(
        target,
        tools=None if tools is None else _names("tools", tools),
        allowed=None if allow is True else _names("allow", allow or ()),
        timeout=timeout,
        start_timeout=start_timeout,
    )


def _command_or_url(server: Any) -> tuple[tuple[str, ...], str]:
    if isinstance(server, str) and server.strip().lower().startswith(("http://", "https://")):
        if not urlsplit(server.strip()).hostname:
            raise BadRequestError(f"server = {server!r}: the address has no host.", param="server")
        return (), server.strip()
    try:
        words = tuple(shlex.split(server) if isinstance(server, str) else map(os.fspath, server))
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"server = {server!r}: {error}.", param="server") from None
    if not words or not words[0] or any(not isinstance(w, str) or "\0" in w for w in words):
        raise BadRequestError(
            f"server = {server!r}: give the command that starts the server, or its https:// "
            "address.",
            param="server",
        )
    return words, ""


def _checked_name(name: Any, command: Sequence[str], url: str) -> str:
    if name is None:
        base = Path(command[0]).name if command else str(urlsplit(url).hostname)
        # Launchers and interpreters say nothing: what they run does.
        rest = [word for word in command[1:] if not word.startswith("-") and word not in _VERBS]
        if command and rest and (base in _LAUNCHERS or base.startswith("python")):
            base = Path(rest[0]).name.removesuffix(".py")
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in base)[:32]
        return name.strip("_") or "server"
    if not isinstance(name, str) or not 0 < len(name) <= 32 or not name.isascii():
        raise BadRequestError(f"name = {name!r}: give 1 to 32 letters or digits.", param="name")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise BadRequestError(
            f"name = {name!r}: give letters, digits, hyphens and underscores.", param="name"
        )
    return name


def _names(param: str, names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Collection):
        raise BadRequestError(f"{param} = {names!r}: give a list of names.", param=param)
    if any(not isinstance(name, str) for name in names):
        raise BadRequestError(f"{param} = {names!r}: a name is a string.", param=param)
    return tuple(names)


def _texts(param: str, given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or any(
        not isinstance(text, str) for pair in given.items() for text in pair
    ):
        raise BadRequestError(f"{param}: give a mapping of strings to strings.", param=param)
    return dict(given)


def _few(names: Collection[str]) -> str:
    return f"{', '.join(sorted(names)) or 'none':.1000}"


def _close_soon(home: HomeLoop, slot: _Slot) -> None:
    with contextlib.suppress(RuntimeError):
        home.call_soon(lambda: home.spawn(slot.close()))


@atexit.register
def _end_all() -> None:
    """End all servers with the interpreter; those that do not end are killed."""
    home, slots = _home, list(_slots)
    if home is None or home.is_forked:
        return

    async def close() -> None:
        await asyncio.gather(*(slot.close() for slot in slots), return_exceptions=True)

    with contextlib.suppress(Exception):
        home.wait_blocking(close, timeout=_EXIT_S)
    for slot in slots:
        slot.kill()
    home.park(_PARK_S)

"""What a chat's model may call: functions, OpenAI's tools, and the tools of MCP servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.function_tools import Tools, read_tools
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.requests import JSONDict
from mlc_widget.mcp_client import MCPServer
from mlc_widget.mcp_client.descriptions import MCPTool

ChatTools: TypeAlias = Tools | MCPServer | Sequence[Any]
"""As the tools of a request, with `MCPServer`s among them."""
CheckedTools: TypeAlias = Sequence[JSONDict | MCPServer]
"""Servers are asked for their tools before each reply."""


class ServerTool(dict[str, Any]):
    """A tool in OpenAI's shape, with the server that implements it."""

    def __init__(self, name: str, server: MCPServer, tool: MCPTool) -> None:
        super().__init__(tool.described(name))
        self.server, self.tool = server, tool

    @property
    def is_allowed(self) -> bool:
        """Whether it is called without asking."""
        return self.server.allowed is None or self.tool.name in self.server.allowed


def read_chat_tools(tools: Any) -> list[JSONDict | MCPServer] | None:
    """Check tools; functions become `FunctionTool`s, and servers stay as they are.

    Raises:
        BadRequestError: A tool is invalid; the message names it and the fault.
    """
    if isinstance(tools, MCPServer):
        tools = [tools]
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        return read_tools(tools)  # type: ignore[return-value]
    servers = dict.fromkeys(one for one in tools if isinstance(one, MCPServer))
    others = read_tools([one for one in tools if not isinstance(one, MCPServer)])
    return [*(others or ()), *servers]


def servers_of(tools: CheckedTools | None) -> list[MCPServer]:
    """The servers among tools."""
    return [one for one in tools or () if isinstance(one, MCPServer)]


async def listed(tools: CheckedTools) -> list[JSONDict]:
    """Start the servers that do not run, and return what a request offers.

    Raises:
        MCPServerError: A server did not start or answer.
        BadRequestError: There are more tools than a request may have.
    """
    await asyncio.gather(*(server.tools() for server in servers_of(tools)))
    found = offered(tools)
    if len(found) > LIMITS.tools:
        raise BadRequestError(
            f"tools: {len(found)} are too many; choose at most {LIMITS.tools} with "
            "mcp(…, tools=[…]).",
            param="tools",
        )
    return found


def offered(tools: CheckedTools | None) -> list[JSONDict]:
    """All tools in OpenAI's shape, those of servers as they were listed last.

    If two have one name, that of a server's tool gets its server's name before it.
    """
    found = [one for one in tools or () if not isinstance(one, MCPServer)]
    names = {tool["function"]["name"] for tool in found}
    for server in servers_of(tools):
        for tool in server.known:
            name = _free_name((tool.offered, f"{server.name}_{tool.offered}"), names)
            names.add(name)
            found.append(ServerTool(name, server, tool))
    return found


def _free_name(wanted: Iterable[str], names: Collection[str]) -> str:
    name = ""
    for name in wanted:
        if name not in names:
            return name
    number = 2
    while f"{name}_{number}" in names:
        number += 1
    return f"{name}_{number}"


def read_arguments(text: str) -> JSONDict:
    """A call's arguments, from a model's text.

    Raises:
        ValueError: It is not a JSON object that can be sent.
    """
    arguments = json.loads(text or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("not an object")
    json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    return arguments


def shown_arguments(arguments: Mapping[str, Any]) -> str:
    """Arguments as a user should see them: exactly what is sent, and nothing invisible.

    Characters that are not seen, or turn the direction of others, are written as JSON's escapes.
    """
    text = json.dumps(arguments, ensure_ascii=False, indent=2)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)

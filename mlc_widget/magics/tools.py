"""What the model may call: variables that ``--tools`` names, and the servers of `%mlc tools`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

if TYPE_CHECKING:
    from mlc_widget.mcp_client import MCPServer


def named_tools(names: Sequence[str], namespace: Mapping[str, Any]) -> list[Any]:
    """The tools that variables hold: functions, MCP servers, or tools in OpenAI's shape.

    Raises:
        UsageError: There is no such variable.
        BadRequestError: A function cannot be a tool.
    """
    return [tool for name in names for tool in _tools_of(name, namespace)]


def _tools_of(name: str, namespace: Mapping[str, Any]) -> Sequence[Any]:
    from mlc_widget.api.function_tools import read_tools

    if name not in namespace:
        raise UsageError(f"--tools {name}: no variable has that name.")
    value = namespace[name]
    if callable(value):
        return read_tools({name: value}) or ()
    return value if isinstance(value, list | tuple) else [value]


def change_servers(
    servers: MutableMapping[str, MCPServer], action: str | None, words: Sequence[str]
) -> str:
    """Add a server to those of `%%chat`, or end one; returns what to print.

    Args:
        servers: The servers by their names.
        action: ``add``, ``rm``, or None to list them.
        words: A name and, for ``add``, the command or address.

    Raises:
        UsageError: The words are wrong; the message says what to give.
        MLCEngineError: The server does not start.
    """
    from mlc_widget.mcp_client import mcp

    if action == "add":
        if len(words) < 2:
            raise UsageError(
                "%mlc tools add NAME COMMAND …: give a name, and a command or address."
            )
        name, *command = words
        server = mcp(command[0] if len(command) == 1 else command, name=name)
        server.tools_now()
        if name in servers:
            servers[name].close()
        servers[name] = server
    elif action == "rm":
        if len(words) != 1 or words[0] not in servers:
            known = ", ".join(servers) or "none"
            raise UsageError(f"%mlc tools rm NAME: give one of the servers ({known}).")
        servers.pop(words[0]).close()
    elif action not in (None, "list"):
        raise UsageError(f"%mlc tools {action}: give `add`, `rm`, or nothing.")
    if not servers:
        return "%%chat has no MCP servers. `%mlc tools add NAME COMMAND …` adds one."
    return "\n".join(line for server in servers.values() for line in _described(server))


def _described(server: MCPServer) -> list[str]:
    lines = [f"{server.name}: {len(server.known)} tools"]
    for tool in server.known:
        summary = " ".join(tool.description.split())
        lines.append(f"  {tool.name}" + (f"  {summary:.80}" if summary else ""))
    lines += [f"  {name}: left out, as {why}" for name, why in server.left_out.items()]
    return lines

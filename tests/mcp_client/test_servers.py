"""Servers of the Model Context Protocol: their lives, and the bounds on what they say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget import MCPServer, mcp
from mlc_widget.api.errors import BadRequestError, MCPServerError
from mlc_widget.mcp_client.descriptions import (
    MAX_DESCRIPTION,
    MAX_SCHEMA,
    MAX_TOOLS,
    read_descriptions,
)
from mlc_widget.mcp_client.results import MAX_RESULT, result_text

from ..waiting import until, until_blocking

pytest.importorskip("mcp")
TINY = str(Path(__file__).with_name("tiny_server.py"))


def tiny(how: dict[str, Any] | None = None, **options: Any) -> MCPServer:
    return mcp([sys.executable, TINY, json.dumps(how or {})], **options)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_tools_are_listed_and_called_and_the_environment_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "1")
    server = tiny({"prints": True}, env={"KEY": "2"}, tools=["where", "add"])
    assert [tool.name for tool in await server.tools()] == ["add", "where"]
    assert await server.call("add", {"a": 2, "b": 3}) == "5"
    pid, names = json.loads(await server.call("where", {}))
    assert "KEY" in names
    assert "SECRET" not in names
    assert "started" in server.log
    assert "a line that is no message" in server.log
    server.close()
    await until(lambda: not runs(pid))
    assert await server.call("add", {"a": 1, "b": 1}) == "2"  # it starts again
    with pytest.raises(MCPServerError, match=r"no such tool|Unknown|KeyError|ended with exit code"):
        await server.call("unknown", {})
    server.close()


async def test_a_server_that_dies_is_said_to_and_starts_again() -> None:
    server = tiny()
    with pytest.raises(MCPServerError, match=r"exit code 3.\nIts last output:\n.*\n  out of luck"):
        await server.call("die", {})
    pid, _ = json.loads(await server.call("where", {}))
    connection = server._slot._connection
    assert connection is not None
    os.kill(pid, signal.SIGKILL)  # between two calls
    await until(lambda: not connection.alive)
    assert await server.call("add", {"a": 1, "b": 2}) == "3"
    hanging = asyncio.create_task(server.call("hang", {}))
    await until(lambda: "hanging" in server.log)
    server.close()  # while a call is made
    with pytest.raises(MCPServerError):
        await hanging


@pytest.mark.parametrize(
    ("how", "options", "said"),
    [
        ({"exits": 4, "says": "no key"}, {}, "exit code 4.\nIts last output:\n  no key"),
        ({"silent": True}, {"start_timeout": 0.5}, "not ready within 0.5 seconds"),
        ({"floods": "x"}, {}, "a message of more than"),
        ({"floods": "\n"}, {}, "bytes in answer to one message"),
    ],
)
async def test_a_server_that_fails_is_ended_with_its_reason(
    how: Any, options: Any, said: str
) -> None:
    server = tiny(how, **options)
    with pytest.raises(MCPServerError, match=said):
        await server.call("add", {"a": 1, "b": 1})


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    server = tiny(timeout=0.5)
    await server.tools()
    with pytest.raises(MCPServerError, match=r"did not answer within 0\.5 seconds"):
        await server.call("hang", {})
    server.close()


async def test_what_cannot_be_started_is_said() -> None:
    with pytest.raises(MCPServerError, match="'no-such-command' was not found"):
        await mcp("no-such-command --flag").tools()
    with pytest.raises(MCPServerError, match="'/no/such/folder' was not found"):
        await tiny(cwd="/no/such/folder").tools()
    with pytest.raises(MCPServerError, match=r"127_0_0_1.*connection"):
        await mcp("http://127.0.0.1:9/mcp").tools()


async def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    server = tiny({"child": str(tmp_path / "pid")})
    await server.tools()
    child = int((tmp_path / "pid").read_text())
    assert runs(child)
    server.close()
    await until(lambda: not runs(child))


@pytest.mark.soak  # it imports the package mcp, which takes seconds
def test_it_ends_with_the_interpreter() -> None:
    script = (
        "import sys\n"
        "from mlc_widget import mcp\n"
        f"server = mcp([sys.executable, {TINY!r}])\n"
        "server.tools_now()\n"
        "print(server._slot._connection._process._process.pid, flush=True)\n"
    )
    assert_it_ends(script)


def test_it_ends_with_an_interpreter_that_is_killed() -> None:
    how = json.dumps({"stubborn": True})
    assert_it_ends(
        "import asyncio, os, signal, sys\n"
        "from mlc_widget.mcp_client.process import ServerLog, ServerProcess\n"
        "async def main():\n"
        f"    command = [sys.executable, {TINY!r}, {how!r}]\n"
        "    server = await ServerProcess.start(command, os.environ, None, ServerLog())\n"
        "    print(server._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )


def assert_it_ends(script: str) -> None:
    """Run a script that prints the process id of a server, and wait for that server's end."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    pid = int(done.stdout.split()[0])
    until_blocking(lambda: not runs(pid))


async def test_a_server_ends_with_the_last_that_uses_it() -> None:
    class User:
        pass

    one, two, server = User(), User(), tiny()
    server.use(one)
    server.use(two)
    pid, _ = json.loads(await server.call("where", {}))
    server.leave(one)
    assert await server.call("add", {"a": 1, "b": 1}) == "2"
    assert runs(pid)
    server.leave(two)
    await until(lambda: not runs(pid))


def listed(name: str, schema: Any = None, description: str | None = None) -> Any:
    return SimpleNamespace(
        name=name, description=description, input_schema=schema or {"type": "object"}
    )


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array"}, "not a schema of an object"),
        ({"properties": {"a": {"type": "number!"}}}, "malformed"),
        ({"properties": {"a": {"pattern": "("}}}, "malformed"),
        ({"properties": {"a": {"pattern": "a{4294967295}"}}}, "cannot be read"),
        ({"properties": {"a": {"$ref": "https://example.org/s"}}}, "another document"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "another document"),
        ({"description": "x" * MAX_SCHEMA}, "characters; at most"),
        ({"required": "a"}, "malformed"),
        ({"enum": 3}, "malformed"),
    ],
)
def test_a_tool_whose_parameters_cannot_be_used_is_left_out(schema: Any, said: str) -> None:
    found, left_out = read_descriptions([listed("good"), listed("bad", schema)])
    assert [tool.name for tool in found] == ["good"]
    assert said in left_out["bad"]


def test_names_and_descriptions_are_bounded() -> None:
    found, left_out = read_descriptions(
        [
            listed("a" * 129),
            listed("a\u202eb"),
            listed(""),
            listed("twice"),
            listed("twice"),
            listed("search/web now!", description="x\x1b[31m\u202e" * 5000),
        ]
    )
    assert [tool.offered for tool in found] == ["twice", "search_web_now"]
    assert len(found[1].description) <= MAX_DESCRIPTION
    assert found[1].description.isprintable()
    assert len(left_out) >= 3
    found, left_out = read_descriptions([listed(f"t{i}") for i in range(1000)])
    assert len(found) == MAX_TOOLS
    assert "more than" in left_out[f"t{MAX_TOOLS}"]


async def test_a_list_without_an_end_is_read_in_part() -> None:
    server = tiny({"endless": True})
    assert len(await server.tools()) == 4
    server.close()


async def test_a_tool_that_was_chosen_must_be_there() -> None:
    schema = {"type": "array"}
    server = tiny({"tools": [{"name": "bad", "inputSchema": schema}]}, tools=["bad"])
    with pytest.raises((BadRequestError, MCPServerError), match=r"bad|object"):
        await server.tools()
    server.close()
    server = tiny(tools=["nothing"])
    with pytest.raises(BadRequestError, match="no such tool; it has add, die"):
        await server.tools()
    server.close()


def result(*blocks: Any, structured: Any = None, is_error: bool = False) -> str:
    content = [SimpleNamespace(**block) for block in blocks]
    return result_text(
        SimpleNamespace(content=content, structured_content=structured, is_error=is_error)
    )


def test_results_become_text() -> None:
    text = {"type": "text", "text": "five"}
    image = {"type": "image", "data": "x" * 10**6, "mime_type": "image/png"}
    file = {"type": "resource", "resource": SimpleNamespace(text="in it", uri="file:///a")}
    assert result(text, image, file) == "five\n[image: image/png, left out]\nin it"
    assert result(structured={"é": 1}) == '{"é": 1}'
    assert result(text, is_error=True) == "Error: five"
    assert result(is_error=True) == "Error: the tool failed"
    assert result() == ""
    long = result({"type": "text", "text": "x" * 10**6})
    assert len(long) < MAX_RESULT + 100
    assert "1,000,000 characters" in long


@pytest.mark.parametrize(
    ("server", "options", "param"),
    [
        ("", {}, "server"),
        ("'open", {}, "server"),
        ([], {}, "server"),
        (3, {}, "server"),
        ("https://", {}, "server"),
        ("a\0b", {}, "server"),
        ("tool", {"timeout": 0}, "timeout"),
        ("tool", {"start_timeout": "1"}, "start_timeout"),
        ("tool", {"name": "a b"}, "name"),
        ("tool", {"name": ""}, "name"),
        ("tool", {"tools": "add"}, "tools"),
        ("tool", {"allow": [1]}, "allow"),
        ("tool", {"env": {"A": 1}}, "env"),
        ("tool", {"headers": {}}, "headers"),
        ("https://example.org/mcp", {"cwd": "/"}, "cwd"),
    ],
)
def test_wrong_arguments_are_named(server: Any, options: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        mcp(server, **options)
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("uvx mcp-server-time --local-timezone UTC", "mcp-server-time"),
        ("npx -y @modelcontextprotocol/server-filesystem /tmp", "server-filesystem"),
        ("uv run tools/weather.py", "weather"),
        (["/opt/bin/python3.12", "-m", "my.server"], "my_server"),
        ("/opt/my server", "my"),
        ("https://mcp.example.org/x", "mcp_example_org"),
        ("ünï", "n"),
    ],
)
def test_servers_are_named_by_what_they_run(server: Any, name: str) -> None:
    assert mcp(server).name == name

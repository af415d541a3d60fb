"""A chat whose model calls the tools of MCP servers: questions, decisions and results."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget import MCPServer, mcp
from mlc_widget.api.errors import BadRequestError, MCPServerError
from mlc_widget.api.function_tools import MAX_CALL_TURNS
from mlc_widget.mcp_client.descriptions import MCPTool
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.approvals import can_ask
from mlc_widget.widget.calls import REFUSED
from mlc_widget.widget.chat_tools import offered, read_arguments, read_chat_tools, shown_arguments

from ..waiting import until
from .script_folder import write_script_folder

pytest.importorskip("mcp")
TINY = str(Path(__file__).parent.parent / "mcp_client" / "tiny_server.py")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
DEADLINE = 30.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelMLCEngine]:
    """One that answers everything with two equal calls."""
    folder = write_script_folder(tmp_path_factory.mktemp("models") / "tools", tools=True)
    script = {"text": f"{CALL}\n{CALL}"}
    with KernelMLCEngine(runtime="scripted", runtime_options=script) as made:
        made.reload(str(folder))
        yield made


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page to ask on, whatever shell another test has left in this process."""
    monkeypatch.setattr("mlc_widget.widget.calls.can_ask", lambda cell: True)


def tiny(**options: Any) -> MCPServer:
    return mcp([sys.executable, TINY], **options)


def questions(chat: ChatWidget) -> list[dict[str, Any]]:
    path = chat._session.state.path()
    return list(path[-1].questions) if path else []


def decide(chat: ChatWidget, call: int, decision: str) -> None:
    reply = chat._session.state.path()[-1].id
    intent = {"kind": "allow", "reply": reply, "call": call, "decision": decision}
    chat._take({"type": "intent", "id": f"{reply}{call}{decision}", "intent": intent})


def results(chat: ChatWidget) -> list[str]:
    return [m["content"] for m in chat.messages if m["role"] == "tool"]


async def test_each_call_is_shown_and_asked_for_until_always(engine: KernelMLCEngine) -> None:
    server = tiny()
    chat = ChatWidget(engine, tools=[server])
    reply = chat.send("2 + 3?")
    await until(lambda: len(questions(chat)) == 2)
    assert questions(chat)[1] == {
        "call": 1,
        "server": "tiny_server",
        "tool": "add",
        "arguments": '{\n  "a": 2,\n  "b": 3\n}',
    }
    assert chat._session.state.to_json()["messages"][-1]["questions"] == questions(chat)
    decide(chat, 0, "never")
    await until(lambda: len(questions(chat)) == 1)
    decide(chat, 1, "once")
    await until(lambda: results(chat) == [REFUSED, "5"])
    await until(lambda: len(questions(chat)) == 2)
    decide(chat, 0, "always")  # and so the other one
    last = await asyncio.wait_for(_wait(reply), DEADLINE)
    assert last["tool_calls"]
    assert results(chat) == [REFUSED, *["5"] * (2 * MAX_CALL_TURNS - 1)]
    assert chat.tools == [server]
    # Another chat asks again.
    other = ChatWidget(engine, tools=[server])
    other.send("And again?")
    await until(lambda: len(questions(other)) == 2)
    # A decision about what is not asked is refused, and so is one that is none.
    for call, decision in ((2, "once"), (0, "maybe"), ("0", "once"), (None, "always")):
        with pytest.raises(BadRequestError):
            other._session.approvals.decide(other._session.state.head, call, decision)
    # The server ends with the last chat.
    process = server._slot._connection
    assert process is not None
    chat.close()
    other.close()
    await until(lambda: not process.alive)


async def _wait(reply: Any) -> Any:
    return await reply


async def test_stop_gives_up_the_calls_that_wait(engine: KernelMLCEngine) -> None:
    chat = ChatWidget(engine, tools=[tiny()])
    reply = chat.send("2 + 3?")
    await until(lambda: len(questions(chat)) == 2)
    later = chat.send("Are you there?")
    await until(lambda: later.status == "queued")
    chat.stop()
    assert (await asyncio.wait_for(_wait(reply), DEADLINE))["tool_calls"]
    assert results(chat) == []
    assert questions(chat) == []
    assert "Its calls were stopped." in chat.export()
    chat.close()


async def test_stop_leaves_the_calls_of_functions_that_come_later(engine: KernelMLCEngine) -> None:
    made, go_on, ended = [], asyncio.Event(), asyncio.Event()

    async def add(a: int, b: int) -> int:
        made.append((a, b))
        await go_on.wait()
        ended.set()
        return a + b

    chat = ChatWidget(engine, tools=[add])
    chat.send("2 + 3?")
    await until(lambda: made)
    chat.stop()
    await until(lambda: not chat._session.state.path()[-1].calling)
    go_on.set()
    await asyncio.wait_for(ended.wait(), DEADLINE)
    follows = asyncio.Event()
    asyncio.get_running_loop().call_later(0, follows.set)  # after what was ready to run
    await follows.wait()
    assert made == [(2, 3)]
    assert results(chat) == []
    chat.close()


async def test_functions_and_servers_answer_one_reply(engine: KernelMLCEngine) -> None:
    def add(a: int, b: int) -> int:
        return 0

    server = tiny(allow=["add"], tools=["add"])
    await server.tools()
    # The function has the name, so that the server's tool gets another one.
    tools = offered(read_chat_tools([server, add]))
    assert [tool["function"]["name"] for tool in tools] == ["add", "tiny_server_add"]
    chat = ChatWidget(engine, tools=[server, {"type": "function", "function": {"name": "other"}}])
    reply = chat.send("2 + 3?")
    await asyncio.wait_for(_wait(reply), DEADLINE)
    assert results(chat) == ["5"] * 2 * MAX_CALL_TURNS  # without asking
    chat.close()


async def test_a_server_that_does_not_start_is_the_reply_s_error(engine: KernelMLCEngine) -> None:
    chat = ChatWidget(engine, tools=mcp([sys.executable, TINY, '{"exits": 1}'], name="broken"))
    with pytest.raises(MCPServerError, match="'broken': it ended with exit code 1"):
        await asyncio.wait_for(_wait(chat.send("2 + 3?")), DEADLINE)
    chat.close()


def tool(name: str) -> MCPTool:
    return MCPTool(name, name, "", {"type": "object"}, "")


def test_names_that_clash_get_their_server_s() -> None:
    one, two, three = (mcp("x", name=name) for name in ("files", "web", "web"))
    for server in (one, two, three):
        server.known = (tool("read"), tool("files_read"))
    found = offered(read_chat_tools([one, two, three, one]))
    assert [t["function"]["name"] for t in found] == [
        *("read", "files_read", "web_read", "web_files_read"),
        *("web_read_2", "web_files_read_2"),
    ]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"path": "/tmp/é"}, '{\n  "path": "/tmp/é"\n}'),
        ({"p": "a\u202eb\u200b\x1b"}, '{\n  "p": "a\\u202eb\\u200b\\u001b"\n}'),
        ({"p": "a\nb\u00a0c\ufeff"}, '{\n  "p": "a\\nb\\u00a0c\\ufeff"\n}'),
        ({"\u2066": "\U000e0041"}, '{\n  "\\u2066": "\\udb40\\udc41"\n}'),
        ({}, "{}"),
        ({"html": "<b>&amp;"}, '{\n  "html": "<b>&amp;"\n}'),
    ],
)
def test_arguments_are_shown_as_they_are_sent(arguments: Any, shown: str) -> None:
    assert shown_arguments(arguments) == shown
    assert json.loads(shown) == arguments


def test_arguments_are_what_the_last_of_equal_keys_says() -> None:
    assert read_arguments('{"path": "/safe", "path": "/etc"}') == {"path": "/etc"}
    assert read_arguments("") == {}
    for text in ("[]", '"a"', "{", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 100_000):
        with pytest.raises((ValueError, RecursionError)):
            read_arguments(text)


def test_a_console_and_a_batch_run_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def python(shell: Any) -> None:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    def shell(kernel: Any) -> None:
        python(SimpleNamespace(input_transformers_post=[], **kernel))

    def request(**content: Any) -> dict[str, Any]:
        header = {"msg_id": "abc_1_2"}
        parent = {"header": header, "metadata": {}, "content": content}
        return {"kernel": SimpleNamespace(get_parent=lambda _: parent)}

    context = contextvars.copy_context()
    python(None)
    assert can_ask(context)  # no shell: an app
    shell({})
    assert not can_ask(context)  # IPython's terminal
    shell(request(allow_stdin=True))
    assert not can_ask(context)  # a Jupyter console
    shell(request())
    assert not can_ask(context)  # a batch run
    shell({"kernel": SimpleNamespace(get_parent=lambda _: {"header": {"msg_id": "x"}})})
    assert can_ask(context)


async def test_a_call_that_nobody_can_be_asked_about_is_not_made(
    engine: KernelMLCEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlc_widget.widget.calls.can_ask", lambda _: False)
    chat = ChatWidget(engine, tools=[tiny()])
    chat.send("2 + 3?")
    await until(lambda: results(chat))
    assert "allow=['add']" in results(chat)[0]
    chat.close()

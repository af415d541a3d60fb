"""`mlc_widget mcp`, as the official client sees it."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.errors import ModelNotFoundError
from mlc_widget.cli.main import main
from mlc_widget.cli.mcp_server import server_of
from mlc_widget.cli.model_tools import ModelTools

mcp = pytest.importorskip("mcp")


class Engine:
    """Keeps what it is asked, and answers with one text."""

    def __init__(self, text: str = "", finish: str = "stop") -> None:
        self.asked: dict[str, Any] = {}
        self.ended = False
        message = SimpleNamespace(content=text)
        self._reply = SimpleNamespace(
            choices=[SimpleNamespace(message=message, finish_reason=finish)]
        )
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))

    async def _create(self, **request: Any) -> Any:
        self.asked = request
        return self._reply

    async def map(self, prompt: str, rows: Any, **options: Any) -> Any:
        self.asked = {"prompt": prompt, **options}
        return [{**row, options["into"]: options["schema"]["enum"][0]} for row in rows]

    async def terminate(self) -> None:
        self.ended = True


async def call(engine: Engine, name: str, **arguments: Any) -> Any:
    async def load() -> Engine:
        await asyncio.sleep(0)
        return engine

    tools = ModelTools(load(), max_tokens=50)
    async with mcp.Client(server_of(tools)) as client:
        result = await client.call_tool(name, arguments)
    await tools.close()
    assert engine.ended
    return result


def text_of(result: Any) -> str:
    return "\n".join(block.text for block in result.content)


async def test_it_chats() -> None:
    engine = Engine("Bonjour.")
    result = await call(engine, "chat", message="Hello!", system="In French.")
    assert text_of(result) == "Bonjour."
    assert [m["content"] for m in engine.asked["messages"]] == ["In French.", "Hello!"]
    assert engine.asked["max_tokens"] == 50
    assert engine.asked["temperature"] == 0
    await call(engine, "chat", message="Hello!", temperature=1.5)
    assert engine.asked["temperature"] == 1.5


async def test_it_labels() -> None:
    engine = Engine()
    result = await call(engine, "label", texts=["x", "y"], labels=["a", "b", "a"], question="{?}")
    assert result.structured_content == {"result": ["a", "a"]}
    assert engine.asked["prompt"] == "{{?}}\n{text}"
    assert engine.asked["schema"] == {"enum": ["a", "b"]}
    for wrong in ({"texts": [], "labels": ["a", "b"]}, {"texts": ["x"], "labels": ["a", "a"]}):
        refused = await call(engine, "label", **wrong)
        assert refused.is_error
        assert "give" in text_of(refused)


async def test_it_extracts() -> None:
    engine = Engine('{"age": 36}')
    schema = {"properties": {"age": {"type": "integer"}}}
    result = await call(engine, "extract", text="Ada is 36.", json_schema=schema)
    assert result.structured_content == {"age": 36}
    asked = engine.asked["response_format"]["json_schema"]["schema"]
    assert asked == {"type": "object", **schema}
    cut = await call(Engine('{"age": 3', "length"), "extract", text="…", json_schema=schema)
    assert cut.is_error
    assert "more than 50 tokens" in text_of(cut)


async def test_tools_are_described_with_their_arguments() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    tools = ModelTools(never(), max_tokens=50)
    async with mcp.Client(server_of(tools)) as client:  # before the model is loaded
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    await tools.close()
    assert set(listed) == {"chat", "label", "extract"}
    for tool in listed.values():
        assert tool.description
        assert all(field["description"] for field in tool.input_schema["properties"].values())


async def test_a_model_that_does_not_load_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async def load() -> None:
        raise ModelNotFoundError("model = 'nothing': there is no such model.")

    tools = ModelTools(load(), max_tokens=50)
    async with mcp.Client(server_of(tools)) as client:
        result = await client.call_tool("chat", {"message": "Hello!"})
    await tools.close()
    assert result.is_error
    assert "no such model" in text_of(result)
    assert "no such model" in capsys.readouterr().err


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp", "demo", "--max-tokens", "0"]) == 2
    assert "max-tokens = 0" in capsys.readouterr().err


async def test_the_command_answers_over_its_standard_output() -> None:
    from mlc_widget import mcp as server_of_command

    server = server_of_command([sys.executable, "-m", "mlc_widget", "mcp", "demo"], name="local")
    texts = ["It is wonderful", "It is broken"]
    said = await server.call("label", {"texts": texts, "labels": ["good", "bad"]})
    assert set(said.split("\n")) <= {"good", "bad"}
    server.close()

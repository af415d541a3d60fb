"""Frameworks that use OpenAI's client work on the notebook's engine, with the real packages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from mlc_widget import AsyncKernelMLCEngine, KernelMLCEngine
from mlc_widget.api.errors import EngineDeadError

from ..waiting import until_idle

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")


@pytest.fixture(scope="module")
def demo() -> Iterator[AsyncKernelMLCEngine]:
    engine = AsyncKernelMLCEngine()
    asyncio.run(engine.reload("demo"))
    yield engine
    asyncio.run(engine.terminate())


async def test_langchain_answers_and_streams(demo: AsyncKernelMLCEngine) -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="part of the test extra")
    client = demo.openai_client()
    model = langchain_openai.ChatOpenAI(
        model="demo",
        api_key="none",
        root_async_client=client,
        async_client=client.chat.completions,
        temperature=0,
        max_tokens=20,
    )
    answer = await model.ainvoke("Hello!")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    pieces = [piece.content async for piece in model.astream("Hello!")]
    assert "".join(pieces) == answer.content
    assert len(pieces) > 3


def test_langchain_blocking() -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="part of the test extra")
    with KernelMLCEngine() as engine:
        engine.reload("demo")
        client = engine.openai_client()
        model = langchain_openai.ChatOpenAI(
            model="demo",
            api_key="none",
            root_client=client,
            client=client.chat.completions,
            temperature=0,
            max_tokens=20,
        )
        answer = model.invoke("Hello!").content
        assert answer == "".join(piece.content for piece in model.stream("Hello!"))


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else a schema lets a model talk on

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


async def test_instructor_gives_objects(demo: AsyncKernelMLCEngine) -> None:
    instructor = pytest.importorskip("instructor", reason="part of the test extra")
    client = instructor.from_openai(demo.openai_client(), mode=instructor.Mode.JSON_SCHEMA)
    person = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Anna is 30 years old. Answer as JSON."}],
        response_model=Person,
        temperature=0,
        max_tokens=300,
    )
    assert isinstance(person, Person)
    assert person.name


async def test_leaving_a_stream_stops_the_engine(demo: AsyncKernelMLCEngine) -> None:
    client = demo.openai_client()
    stream = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Tell me a story."}],
        stream=True,
        max_tokens=400,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        break
    await stream.close()
    await until_idle(demo)


async def test_errors_are_openais(demo: AsyncKernelMLCEngine) -> None:
    client = demo.openai_client()
    with pytest.raises(openai.NotFoundError, match="the engine answers"):
        await client.images.generate(prompt="a cat")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")
    assert (await client.models.retrieve("demo")).id == "demo"
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        await client.embeddings.create(model="demo", input="hello")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        '{"messages": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        '{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        '{"messages": [{"role": "user", "content": "x"}], "stream": 1}',
        '{"messages": [{"role": "user", "content": "x"}], "seed": ' + "9" * 5000 + "}",
    ],
    ids=["empty", "list", "open", "deep", "half a character", "NaN", "stream 1", "seed"],
)
async def test_any_body_is_answered(demo: AsyncKernelMLCEngine, body: str) -> None:
    url = "http://mlc-widget.invalid/v1/chat/completions"
    answer = await demo.openai_client()._client.post(url, content=body.encode())
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "BadRequestError"


async def test_a_dead_worker_is_a_server_error() -> None:
    engine = AsyncKernelMLCEngine(runtime="scripted", runtime_options={"crash_after": 0})
    await engine.reload("demo")
    try:
        request = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
        with pytest.raises(openai.InternalServerError, match="SIGKILL") as raised:
            await engine.openai_client().chat.completions.create(**request)  # type: ignore[call-overload]
        assert raised.value.request.headers["x-stainless-retry-count"] == "0"
        with pytest.raises(EngineDeadError):
            await engine.chat.completions.create(messages=[{"role": "user", "content": "Hi"}])
    finally:
        await engine.terminate()

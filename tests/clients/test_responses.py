"""The Responses API, through OpenAI's own client: shapes, order, conversations, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.errors import InternalEngineError
from mlc_widget.api.responses_api import store
from mlc_widget.api.responses_api.events import ResponseBuilder
from mlc_widget.api.responses_api.store import ResponseNotFoundError, ResponseStore

SCRIPT = {"text": "one two three", "repeat": 1500}  # more than is sent unread
ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

SAY: dict[str, Any] = {"model": "m", "input": "Hello!", "max_output_tokens": 3}


def validated(event: Any) -> Any:
    """An event as the types have it, which the client itself does not check."""
    return ANY_EVENT.validate_python(event.model_dump(exclude_unset=True))


async def test_a_whole_response(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    response = await client.responses.create(**SAY, metadata={"a": "b"}, temperature=0.5)
    Response.model_validate(response.model_dump(exclude_unset=True))
    assert response.id.startswith("resp_")
    assert response.output_text == "one two three"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.metadata, response.temperature) == ({"a": "b"}, 0.5)
    assert response.usage is not None
    assert response.usage.output_tokens == 3
    assert response.usage.total_tokens == response.usage.input_tokens + 3
    whole = await client.responses.create(**{**SAY, "max_output_tokens": None})
    assert (whole.status, whole.incomplete_details) == ("completed", None)
    blocking = scripted.openai_client(sync=True)
    held = await asyncio.to_thread(lambda: blocking.responses.create(**SAY))
    assert held.output_text == response.output_text


async def test_events_come_in_openais_order_and_shapes(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    events = [e async for e in await client.responses.create(**SAY, stream=True)]
    kinds = [validated(event).type for event in events]
    deltas = [kind for kind in kinds if kind.endswith(".delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last: Any = events[-1]
    assert text == last.response.output_text == "one two three"
    assert len({e.item_id for e in events if hasattr(e, "item_id")}) == 1
    stored = await client.responses.retrieve(last.response.id)
    assert stored.to_dict() == last.response.to_dict()


async def test_a_conversation_goes_on(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    first = await client.responses.create(**SAY, instructions="Be brief.")
    second = await client.responses.create(**SAY, previous_response_id=first.id)
    third = await client.responses.create(**SAY, previous_response_id=second.id)
    assert third.previous_response_id == second.id
    items = await client.responses.input_items.list(third.id, order="asc")
    roles = [item.role async for item in items]  # type: ignore[union-attr]
    assert roles == ["user", "assistant", "user", "assistant", "user"], "without instructions"
    assert first.usage is not None
    assert third.usage is not None
    assert third.usage.input_tokens > first.usage.input_tokens
    # Another client of the same engine knows it, too.
    again = scripted.openai_client()
    assert (await again.responses.retrieve(third.id)).id == third.id
    fork = await again.responses.create(**SAY, previous_response_id=first.id)
    assert len((await again.responses.input_items.list(fork.id)).data) == 3


async def test_input_items_are_paged(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    turns = [{"role": "user", "content": f"{i}"} for i in range(7)]
    for i in range(6):
        turns.insert(2 * i + 1, {"role": "assistant", "content": "so"})
    response = await client.responses.create(**{**SAY, "input": turns})
    page = await client.responses.input_items.list(response.id, limit=5)
    assert page.has_more
    every = [item async for item in page]
    assert len(every) == 13
    up = [i async for i in client.responses.input_items.list(response.id, order="asc")]
    assert [i.id for i in up] == [i.id for i in every[::-1]]
    for query in ({"order": "up"}, {"limit": 0}, {"limit": 1000}, {"after": "nobody"}):
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(response.id, **query)  # type: ignore[arg-type]


async def test_responses_are_deleted_and_not_stored(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    kept = await client.responses.create(**SAY)
    loose = await client.responses.create(**SAY, store=False)
    await client.responses.delete(kept.id)
    gone: list[Callable[[str], Awaitable[Any]]] = [
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        client.responses.input_items.list,  # type: ignore[list-item]
    ]
    for response_id in (kept.id, loose.id, "resp_nobody"):
        for call in gone:
            with pytest.raises(openai.NotFoundError, match="not found"):
                await call(response_id)
        with pytest.raises(openai.BadRequestError, match="not found") as caught:
            await client.responses.create(**SAY, previous_response_id=response_id)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"


async def test_a_running_response_is_cancelled(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    stream = await client.responses.create(model="m", input="Hello!", stream=True)
    created: Any = await anext(aiter(stream))
    running = await client.responses.retrieve(created.response.id)
    assert running.status == "in_progress"
    assert (await client.responses.cancel(running.id)).status == "cancelled"
    kinds = [validated(event) async for event in stream]
    assert kinds[-1].type == "response.incomplete"
    assert kinds[-1].response.status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="it is cancelled"):
        await client.responses.cancel(running.id)


async def test_a_left_stream_stops_and_is_not_stored(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    stream = await client.responses.create(model="m", input="Hello!", stream=True)
    created: Any = await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(60):
        while (await scripted.metrics())["running_requests"]:
            await asyncio.sleep(0.005)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(created.response.id)


USER = {"role": "user", "content": "Hello!"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": None}, "input"),
    "input a number": ({"input": 5}, "input"),
    "input empty": ({"input": []}, "input"),
    "an item of text": ({"input": ["Hello"]}, "input[0]"),
    "an item of no type": ({"input": [{}]}, "input[0].type"),
    "an item's type a list": ({"input": [{"type": []}]}, "input[0].type"),
    "a web search call": ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
    "an item reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    "an unknown role": ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    "a result of no call": (
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "1"}]},
        "input",
    ),
    "a result without output": (
        {"input": [USER, {"type": "function_call_output", "call_id": "x"}]},
        "input[1].output",
    ),
    "a call without a name": (
        {"input": [USER, {"type": "function_call", "call_id": "x", "arguments": "{}"}]},
        "input[1].name",
    ),
    "instructions a list": ({"instructions": [USER]}, "instructions"),
    "too hot": ({"temperature": 5}, "temperature"),
    "max_output_tokens 0": ({"max_output_tokens": 0}, "max_output_tokens"),
    "background": ({"background": True}, "background"),
    "truncation": ({"truncation": "auto"}, "truncation"),
    "conversation": ({"conversation": "conv_x"}, "conversation"),
    "prompt": ({"prompt": {"id": "x"}}, "prompt"),
    "reasoning": ({"reasoning": {"effort": "high"}}, "reasoning"),
    "include": ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
    "verbosity": ({"text": {"verbosity": "low"}}, "text.verbosity"),
    "a format of no type": ({"text": {"format": {"type": "xml"}}}, "text.format"),
    "a format without a schema": (
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        "text.format.schema",
    ),
    "a web search": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "a file search": ({"tools": [TOOL, {"type": "file_search"}]}, "tools[1].type"),
    "a tool that is misspelt": ({"tools": [{**TOOL, "paramters": {}}]}, "tools[0].paramters"),
    "a choice of no tool": ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.function.name"),  # noqa: E501
    "a hosted tool's choice": ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),  # noqa: E501
    "an allowed tool that is none": ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "g"}]}}, "tool_choice.tools[0]"),  # noqa: E501
    "a misspelt field": ({"max_tokens": 5}, "max_tokens"),
    "stream a word": ({"stream": "yes"}, "stream"),
    "store a word": ({"store": "yes"}, "store"),
    "obfuscation": ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),  # noqa: E501
    "previous_response_id a number": ({"previous_response_id": 5}, "previous_response_id"),
    "service_tier": ({"service_tier": "priority"}, "service_tier"),
    "moderation": ({"moderation": {"model": "x"}}, "moderation"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_honoured_is_refused_by_name(
    scripted: AsyncMLCEngineInterface, case: str
) -> None:
    fields, param = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        await scripted.openai_client().responses.create(
            **{**SAY, **{k: v for k, v in fields.items() if k != "max_tokens"}},
            extra_body=fields if "max_tokens" in fields else None,
        )
    assert caught.value.param == param
    assert param.rsplit(".", 1)[-1] in str(caught.value)


async def test_failures_end_a_response(scripted: AsyncMLCEngineInterface) -> None:
    """A stream tells of it in its last event, a whole one by an error."""
    builder = ResponseBuilder(
        "resp_x", "m", {"parallel_tool_calls": True, "tools": [], "tool_choice": "auto"}
    )
    delta = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": None}]}
    events = [*builder.begin(), *builder.take(delta), *builder.fail(InternalEngineError("broken"))]
    kinds = [ANY_EVENT.validate_python(event).type for event in events]
    assert kinds[-2:] == ["response.output_item.done", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "broken"}
    # What else is tried after it is still answered.
    assert (await scripted.openai_client().responses.create(**SAY)).output_text


def test_thoughts_text_and_calls_are_items_of_their_own() -> None:
    builder = ResponseBuilder(
        "resp_x", "m", {"parallel_tool_calls": True, "tools": [], "tool_choice": "auto"}
    )

    def call(index: int, **function: str) -> dict[str, Any]:
        named = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
        return {"tool_calls": [{"index": index, **named, "function": function}]}

    deltas = [
        {"reasoning_content": "hm"}, {"reasoning_content": "m"}, {"content": "So"},
        call(0, name="f"), call(1, name="g", arguments="{"), call(0, arguments="{}"),
        call(1, arguments="}"),
    ]  # fmt: skip
    events = builder.begin()
    for delta in deltas:
        events += builder.take({"choices": [{"delta": delta, "finish_reason": None}]})
    events += builder.take({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    events += builder.end()
    checked = [ANY_EVENT.validate_python(event) for event in events]
    response = checked[-1].response
    assert response.status == "completed"
    assert [item.type for item in response.output] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert response.output[0].content[0].text == "hmm"
    assert [(c.call_id, c.name, c.arguments) for c in response.output[2:]] == [
        ("call_0", "f", "{}"),
        ("call_1", "g", "{}"),
    ]
    done = [e.output_index for e in checked if e.type == "response.output_item.done"]
    added = [e.output_index for e in checked if e.type == "response.output_item.added"]
    assert added == sorted(done) == [0, 1, 2, 3]


def test_an_answer_without_text_is_an_empty_message() -> None:
    builder = ResponseBuilder(
        "resp_x", "m", {"parallel_tool_calls": True, "tools": [], "tool_choice": "auto"}
    )
    events = [
        *builder.begin(),
        *builder.take({"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}),
        *builder.end(),
    ]
    response = ANY_EVENT.validate_python(events[-1]).response
    assert response.output_text == ""
    assert len(response.output) == 1


def test_the_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_BYTES", 100_000)

    def fill(count: int, size: int) -> ResponseStore:
        kept = ResponseStore()
        for i in range(count):
            kept.begin({"id": f"{i}", "output": []}, [{"id": "x", "text": "x" * size}])
            kept.end(f"{i}", store=True)
        return kept

    kept = fill(1500, 1)
    for gone in ("0", "499"):
        with pytest.raises(ResponseNotFoundError):
            kept.get(gone)
    assert kept.get("500").response["id"] == "500"
    kept = fill(30, 9_000)
    with pytest.raises(ResponseNotFoundError):
        kept.get("18")
    assert kept.get("29").response["id"] == "29"
    kept = fill(1, 200_000)
    with pytest.raises(ResponseNotFoundError):
        kept.get("0")


@pytest.fixture(scope="module")
def demo() -> Iterator[AsyncKernelMLCEngine]:
    pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
    engine = AsyncKernelMLCEngine()
    asyncio.run(engine.reload("demo"))
    yield engine
    asyncio.run(engine.terminate())


WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


async def test_function_tools_and_their_outputs(demo: AsyncKernelMLCEngine) -> None:
    client = demo.openai_client()
    common: dict[str, Any] = {"model": "demo", "tools": [WEATHER], "temperature": 0}
    question = "What is the weather in Paris?"
    choices: list[Any] = [
        "required",
        {"type": "function", "name": "get_weather"},
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    ]
    for choice in choices:
        asked = await client.responses.create(**common, input=question, tool_choice=choice)
        call = asked.output[-1]
        assert call.type == "function_call"
        assert call.name == "get_weather"
    stream = await client.responses.create(
        **common, input=question, tool_choice="required", stream=True
    )
    events = [validated(event) async for event in stream]
    arguments = "".join(
        e.delta for e in events if e.type == "response.function_call_arguments.delta"
    )
    assert arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    by_id = await client.responses.create(
        **common, previous_response_id=asked.id, input=[output], max_output_tokens=20
    )
    by_items = await client.responses.create(
        **common,
        input=[{"role": "user", "content": question}, call.to_dict(), output],
        max_output_tokens=20,
    )
    assert by_id.output_text == by_items.output_text


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


async def test_parse_gives_objects(demo: AsyncKernelMLCEngine) -> None:
    client = demo.openai_client()
    asked: dict[str, Any] = {
        "model": "demo",
        "input": "Anna is 30 years old. Answer as JSON.",
        "text_format": Person,
        "temperature": 0,
        "max_output_tokens": 300,
    }
    response = await client.responses.parse(**asked)
    assert isinstance(response.output_parsed, Person)
    async with client.responses.stream(**asked) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_parsed == response.output_parsed
    logged = await client.responses.create(
        model="demo", input="Hello!", top_logprobs=2, max_output_tokens=4, temperature=0,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    part: Any = logged.output[0].content[0]  # type: ignore[union-attr,index]
    assert "".join(entry.token for entry in part.logprobs).startswith(part.text)
    assert {len(entry.top_logprobs) for entry in part.logprobs} == {2}

"""Tools and thoughts through the engine, on a random model that grammars make call them."""

from __future__ import annotations

import json

import jsonschema
import pytest
import pytest_asyncio

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError

from .conftest import CALL_MARKS, THOUGHT_MARKS, engine_on, user, write_model
from .schemas import GOOD

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": GOOD["weather"]},
}
FLIGHT = {"type": "function", "function": {"name": "book", "parameters": GOOD["book in_flight"]}}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, FLIGHT, NOW]
SCHEMAS = {
    "get_weather": GOOD["weather"],
    "book": GOOD["book in_flight"],
    "now": {"type": "object", "maxProperties": 0},
}
LLAMA = {
    "name": "llama-3_1",
    "system_template": (
        "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|im_end|>\n"
    ),
    "roles": {
        "user": "<|start_header_id|>user",
        "assistant": "<|start_header_id|>assistant",
        "tool": "<|start_header_id|>ipython",
    },
    "seps": ["<|im_end|>"],
    "role_content_sep": "<|end_header_id|>\n\n",
    "role_empty_sep": "<|end_header_id|>\n\n",
}


@pytest.fixture
def engine(shared_engine):
    return shared_engine


@pytest_asyncio.fixture(params=["chatml", "llama"])
async def caller(request, model_folder, tmp_path, cache_dir):
    """The tool formats of all families."""
    folder = model_folder
    if request.param == "llama":
        folder = write_model(tmp_path / "llama", template=LLAMA, context=4096)
    async with engine_on(folder, cache_dir) as made:
        yield made


@pytest_asyncio.fixture
async def thinker(tmp_path, cache_dir):
    """The same model with a tokenizer that has the tokens of thoughts."""
    folder = write_model(tmp_path / "thinker", marks=[*CALL_MARKS, *THOUGHT_MARKS])
    async with engine_on(folder, cache_dir) as made:
        yield made


async def ask(engine, **request):
    wanted = {"tools": TOOLS, "max_tokens": 600, "seed": 3, **request}
    return await engine.chat.completions.create(messages=user("Weather?"), **wanted)


def check_calls(calls):
    for call in calls:
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


async def test_required_calls_are_valid_calls(caller):
    called = set()
    for seed in range(12):
        made = await ask(caller, tool_choice="required", seed=seed, parallel_tool_calls=False)
        [choice] = made.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        check_calls(choice.message.tool_calls)
        called |= {c.function.name for c in choice.message.tool_calls}
    assert len(called) >= 2


async def test_a_named_tool_is_called_once(engine):
    for name in SCHEMAS:
        chosen = {"type": "function", "function": {"name": name}}
        made = await ask(engine, tool_choice=chosen)
        [call] = made.choices[0].message.tool_calls
        assert call.function.name == name
        check_calls([call])


async def test_several_calls_unless_they_must_not_be_parallel(engine):
    for parallel in (True, False):
        counts = set()
        for seed in range(10):
            made = await ask(
                engine, tool_choice="required", parallel_tool_calls=parallel, seed=seed
            )
            calls = made.choices[0].message.tool_calls
            check_calls(calls if made.choices[0].finish_reason == "tool_calls" else calls[:-1])
            counts.add(len(calls))
        assert counts == {1} or (parallel and len(counts) > 1)


async def test_a_stream_of_calls_says_the_same(caller):
    request = {"tool_choice": "required", "parallel_tool_calls": False, "request_id": "one"}
    whole = (await ask(caller, **request)).choices[0]
    calls: list[dict[str, str]] = []
    reasons = []
    pieces = 0
    async for chunk in await ask(caller, **request, stream=True):
        [choice] = chunk.choices
        reasons.append(choice.finish_reason)
        assert not choice.delta.content
        for call in choice.delta.tool_calls or []:
            if call.id:
                assert call.index == len(calls)
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            calls[call.index]["arguments"] += call.function.arguments
            pieces += 1
    assert calls == [
        {"id": c.id, "name": c.function.name, "arguments": c.function.arguments}
        for c in whole.message.tool_calls
    ]
    assert pieces > 2 * len(calls)
    assert (reasons[-1], set(reasons[:-1])) == ("tool_calls", {None})


async def test_auto_may_answer_in_words_and_calls_are_valid(engine):
    # A bias makes the random model open a call now and then.
    tokenizer = next(iter(engine._core._models)).tokenizer
    mark = tokenizer.token_to_id("<tool_call>")
    words = calls = 0
    for seed in range(12):
        made = await ask(engine, max_tokens=150, seed=seed, logit_bias={mark: 4}, top_p=0.9)
        message, reason = made.choices[0].message, made.choices[0].finish_reason
        whole = message.tool_calls or []
        if reason == "length":
            whole = whole[:-1]
        check_calls(whole)
        calls += bool(whole)
        words += bool(message.content)
        if reason == "stop":
            assert "<tool_call>" not in (message.content or "")
    assert words > 0
    assert calls > 0


async def test_auto_with_a_format_is_a_call_or_the_format(engine):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": GOOD["person"]}}
    calls = answers = 0
    for seed in range(20):
        message = (await ask(engine, response_format=wanted, seed=seed)).choices[0].message
        if message.tool_calls:
            check_calls(message.tool_calls)
            calls += 1
        else:
            jsonschema.validate(json.loads(message.content), GOOD["person"])
            answers += 1
    assert calls > 0
    assert answers > 0


async def test_a_conversation_with_calls_goes_on(caller):
    messages = user("Weather?")
    made = await ask(caller, tool_choice="required", parallel_tool_calls=False)
    message = made.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": c.id, "content": "12 °C"} for c in message.tool_calls
    ]
    again = await caller.chat.completions.create(
        messages=[*messages, message, *results], tools=TOOLS, max_tokens=5, seed=1
    )
    # The calls are part of the conversation now, and most of it was in the cache.
    assert again.usage.prompt_tokens > made.usage.prompt_tokens + 20
    assert again.usage.prompt_tokens_details.cached_tokens > made.usage.prompt_tokens - 16


async def test_what_tools_cannot_be(engine):
    for tools, param in [
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
         "tools[0].function.parameters.type"),
        ([NOW, NOW], "tools[1].function.name"),
        ([{"type": "function", "function": {}}], "tools[0].function.name"),
    ]:  # fmt: skip
        with pytest.raises(BadRequestError) as caught:
            await ask(engine, tools=tools)
        assert caught.value.param == param


# --- thoughts -------------------------------------------------------------------------------------


def thought_of(message) -> str:
    return getattr(message, "reasoning_content", None) or ""


async def test_thoughts_are_separated_from_the_answer(thinker):
    tokenizer = next(iter(thinker._core._models)).tokenizer
    marks = [tokenizer.token_to_id(m) for m in THOUGHT_MARKS]
    # The first token opens a thought, and a bias closes it soon.
    thought = {"type": "grammar", "grammar": 'start: "<think>" /(.|\\n){1,60}/ "</think>" /[a-z]+/'}
    made = await thinker.completions.create(
        prompt="<|im_start|>assistant\n", response_format=thought, seed=1, max_tokens=80
    )
    assert made.choices[0].text.startswith("<think>")  # a completion is left as it is
    request = {"messages": user("?"), "seed": 2, "max_tokens": 60, "ignore_eos": True}
    bias = {marks[0]: 100, marks[1]: 4}
    free = await thinker.chat.completions.create(**request, logit_bias=bias)
    assert thought_of(free.choices[0].message)
    quiet = await thinker.chat.completions.create(**request, enable_thinking=False)
    assert not thought_of(quiet.choices[0].message)
    assert quiet.choices[0].message.content
    assert quiet.usage.prompt_tokens > free.usage.prompt_tokens  # the empty thought


async def test_a_thought_before_json(thinker):
    tokenizer = next(iter(thinker._core._models)).tokenizer
    opens, closes = (tokenizer.token_to_id(m) for m in THOUGHT_MARKS)
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": GOOD["person"]}}
    thoughts = 0
    for seed in range(6):
        request = {
            "messages": user("?"),
            "response_format": wanted,
            "seed": seed,
            "max_tokens": 900,
            "logit_bias": {opens: 5, closes: 4},
        }
        made = await thinker.chat.completions.create(**request)
        message = made.choices[0].message
        jsonschema.validate(json.loads(message.content), GOOD["person"])
        thoughts += bool(thought_of(message))
        streamed = {"content": "", "reasoning_content": ""}
        async for chunk in await thinker.chat.completions.create(**request, stream=True):
            for name in streamed:
                streamed[name] += getattr(chunk.choices[0].delta, name, None) or ""
        assert streamed == {"content": message.content, "reasoning_content": thought_of(message)}
    assert thoughts >= 2


async def test_a_thought_before_a_call(thinker):
    tokenizer = next(iter(thinker._core._models)).tokenizer
    opens, closes = (tokenizer.token_to_id(m) for m in THOUGHT_MARKS)
    thoughts = 0
    for seed in range(6):
        bias = {opens: 5, closes: 4}
        made = await ask(
            thinker, tool_choice="required", logit_bias=bias, max_tokens=900, seed=seed
        )
        message = made.choices[0].message
        check_calls(message.tool_calls)
        thoughts += bool(thought_of(message))
    assert thoughts >= 2


async def test_other_models_do_not_think(engine):
    with pytest.raises(UnsupportedFieldError) as caught:
        await ask(engine, tools=None, enable_thinking=True)
    assert caught.value.param == "enable_thinking"
    made = await ask(engine, tools=None, enable_thinking=False, max_tokens=3)
    assert not thought_of(made.choices[0].message)

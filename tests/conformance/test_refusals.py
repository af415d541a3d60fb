# ruff: noqa: E501 - a table reads best by the line
"""Every engine refuses invalid requests before work starts, naming the field and its value."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    ModelNotLoadedError,
    UnsupportedFieldError,
)

USER = {"role": "user", "content": "Hi"}
DEEP: Any = {"type": "string"}
for _ in range(60):
    DEEP = {"type": "array", "items": DEEP}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}

BAD_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages a string": ({"messages": "Hi"}, "messages"),
    "a message that is none": ({"messages": ["Hi"]}, "messages[0]"),
    "unknown role": ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content a number": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "an image": ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    "a tool message without its id": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content"),
    "a prompt of 5 MB": ({"messages": [{"role": "user", "content": "x" * 5_000_000}]}, "messages"),
    "temperature 5": ({"temperature": 5}, "temperature"),
    "temperature below 0": ({"temperature": -0.1}, "temperature"),
    "temperature not a number": ({"temperature": float("nan")}, "temperature"),
    "temperature a string": ({"temperature": "hot"}, "temperature"),
    "top_p below 0": ({"top_p": -0.1}, "top_p"),
    "top_p above 1": ({"top_p": 1.5}, "top_p"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens -1": ({"max_tokens": -1}, "max_tokens"),
    "max_tokens a fraction": ({"max_tokens": 1.5}, "max_tokens"),
    "max_tokens a switch": ({"max_tokens": True}, "max_tokens"),
    "max_tokens twice": ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    "n 0": ({"n": 0}, "n"),
    "n 1000": ({"n": 1000}, "n"),
    "seed a fraction": ({"seed": 1.5}, "seed"),
    "seed a string": ({"seed": "x"}, "seed"),
    "seed below 64 bits": ({"seed": -(2**63) - 1}, "seed"),
    "an empty stop": ({"stop": ""}, "stop[0]"),
    "too many stops": ({"stop": ["x"] * 17}, "stop"),
    "a stop of 2 KB": ({"stop": ["x" * 2000]}, "stop[0]"),
    "stop a number": ({"stop": 5}, "stop"),
    "frequency_penalty 3": ({"frequency_penalty": 3}, "frequency_penalty"),
    "presence_penalty -3": ({"presence_penalty": -3}, "presence_penalty"),
    "repetition_penalty 0": ({"repetition_penalty": 0}, "repetition_penalty"),
    "logit_bias 101": ({"logit_bias": {"5": 101}}, "logit_bias[5]"),
    "logit_bias of -5": ({"logit_bias": {"-5": 1}}, "logit_bias"),
    "top_k -2": ({"top_k": -2}, "top_k"),
    "min_p 2": ({"min_p": 2}, "min_p"),
    "typical_p a string": ({"typical_p": "most"}, "typical_p"),
    "dry_multiplier -1": ({"dry_multiplier": -1}, "dry_multiplier"),
    "logit_bias a list": ({"logit_bias": [1]}, "logit_bias"),
    "logprobs a number": ({"logprobs": 1}, "logprobs"),
    "top_logprobs 21": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "an unknown stream option": ({"stream": True, "stream_options": {"x": True}}, "stream_options.x"),
    "stream a number": ({"stream": 1}, "stream"),
    "an unknown field": ({"tempature": 1}, "tempature"),
    "an unknown field in extra_body": ({"extra_body": {"x": 1}}, "x"),
    "extra_body a list": ({"extra_body": [1]}, "extra_body"),
    "an empty request_id": ({"request_id": ""}, "request_id"),
    "user a number": ({"user": 5}, "user"),
    "an unknown response_format": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "response_format a string": ({"response_format": "json"}, "response_format"),
    "a schema too deep": ({"response_format": {"type": "json_object", "schema": DEEP}}, "response_format"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    "tools a mapping": ({"tools": {"type": "function"}}, "tools"),
    "tool_choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "an unknown tool_choice": ({"tool_choice": "maybe"}, "tool_choice"),
}  # fmt: skip

BAD_COMPLETIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "no ids": ({"prompt": []}, "prompt"),
    "an id below 0": ({"prompt": [-1]}, "prompt[0]"),
    "an id outside the vocabulary": ({"prompt": [5, 10**6]}, "prompt"),
    "an id that is a fraction": ({"prompt": [1.5]}, "prompt[0]"),
    "several prompts, one wrong": ({"prompt": ["a", ""]}, "prompt[1]"),
    "top_logprobs with a number": ({"logprobs": 2, "top_logprobs": 2}, "top_logprobs"),
    "echo with a switch": ({"echo": True, "logprobs": True}, "logprobs"),
    "messages": ({"messages": [USER]}, "messages"),
    "temperature 5": ({"temperature": 5}, "temperature"),
}

BAD_EMBEDDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": []}, "input"),
    "an empty text": ({"input": ["a", ""]}, "input[1]"),
    "dimensions 0": ({"input": "a", "dimensions": 0}, "dimensions"),
    "an unknown encoding": ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    "a mapping": ({"input": {"text": "a"}}, "input"),
}


async def refused(driver: Any, call: Any, param: str) -> BadRequestError:
    before = (await driver.call("metrics"))["finished_requests"]
    with pytest.raises(BadRequestError) as caught:
        await call
    assert caught.value.param == param, caught.value
    assert caught.value.code
    assert caught.value.message.startswith(param.split("[")[0].split(".")[0])
    assert (await driver.call("metrics"))["finished_requests"] == before
    return caught.value


@pytest.mark.parametrize("case", BAD_CHATS)
async def test_a_bad_chat(driver: Any, case: str) -> None:
    params, param = BAD_CHATS[case]
    await refused(driver, driver.chat(**params), param)


@pytest.mark.parametrize("case", ["no messages", "temperature 5", "n 0", "an unknown field"])
async def test_a_bad_stream_is_refused_before_its_first_chunk(driver: Any, case: str) -> None:
    params, param = BAD_CHATS[case]
    await refused(driver, driver.chat(**params, stream=True), param)


@pytest.mark.parametrize("case", BAD_COMPLETIONS)
async def test_a_bad_completion(driver: Any, case: str) -> None:
    params, param = BAD_COMPLETIONS[case]
    await refused(driver, driver.complete(**params), param)


@pytest.mark.parametrize("case", BAD_EMBEDDINGS)
async def test_a_bad_embedding(driver: Any, case: str) -> None:
    params, param = BAD_EMBEDDINGS[case]
    await refused(driver, driver.call("embeddings.create", **params), param)


async def test_a_logit_bias_outside_the_vocabulary(driver: Any) -> None:
    if "logit_bias" not in driver.fields:
        pytest.skip("refused as a whole by this runtime")
    await refused(driver, driver.chat(logit_bias={10**6: 1.0}), "logit_bias")
    await refused(driver, driver.chat(logit_bias={"No token is as long.": 1.0}), "logit_bias")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_that_does_not_fit(driver: Any, streamed: bool) -> None:
    long = [{"role": "user", "content": "hello world " * 3000}]
    with pytest.raises(ContextLengthExceededError, match=r"messages: .* tokens") as caught:
        await driver.chat(messages=long, stream=streamed)
    assert caught.value.code == "context_length_exceeded"


async def test_a_model_that_is_not_loaded(driver: Any) -> None:
    with pytest.raises(ModelNotLoadedError, match=r"model = 'nobody'.*loaded: ") as caught:
        await driver.chat(model="nobody")
    assert caught.value.code == "model_not_loaded"


async def test_a_known_field_that_no_engine_honours(driver: Any) -> None:
    with pytest.raises(UnsupportedFieldError, match="audio"):
        await driver.chat(extra_body={"audio": {"voice": "alloy"}})


async def test_a_malformed_schema(driver: Any) -> None:
    if "response_format" not in driver.fields:
        pytest.skip("refused as a whole by this runtime")
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(BadRequestError, match="nonsense") as caught:
        await driver.chat(response_format=wanted)
    assert (caught.value.param or "").startswith("response_format")


async def test_a_schema_without_an_end(driver: Any) -> None:
    if "response_format" not in driver.fields:
        pytest.skip("refused as a whole by this runtime")
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    for schema in ({"$ref": "#"}, endless):
        with pytest.raises(BadRequestError) as caught:
            await driver.chat(response_format={"type": "json_object", "schema": schema})
        assert (caught.value.param or "").startswith("response_format.schema")


async def test_calls_that_are_no_requests(driver: Any) -> None:
    await refused(driver, driver.call("get_message", 5), "model_id")
    await refused(driver, driver.call("reset_chat", model_id=["a"]), "model_id")
    await refused(driver, driver.call("abort", None), "request_id")
    await refused(driver, driver.call("forward_tokens_and_sample", "abc"), "input_ids")
    await refused(driver, driver.call("reload", None), "model_id")
    await refused(driver, driver.call("reload", driver.model, {"top_p": -1}), "chat_opts.top_p")
    await refused(driver, driver.call("set_log_level", []), "log_level")
    assert [m.id for m in await driver.call("models.list")] == [driver.model]


async def test_an_error_is_a_value_error_too(driver: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        await driver.chat(temperature=-1)

# ruff: noqa: E501 - a table reads best by the line
"""Invalid requests: each is refused with the field's name, its value, and what to do.

`tests/conformance/test_refusals.py` shows that every engine checks before work starts; these are
the many invalid requests, for which no engine is needed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.engine_base import model_list
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.log_level import check_log_level
from mlc_widget.api.request_messages import response_format
from mlc_widget.api.requests import check_chat, check_completion, check_embedding

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
HUGE = 10**5000  # Python refuses to write it in decimal
HALF = "\ud83d"  # half of a surrogate pair: no encoding has it
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"a": DEEP}
ROUND: dict[str, Any] = {}
ROUND["a"] = ROUND


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def tool(name: Any = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def call(call_id: Any = "a", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def said(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def called(*calls: Any) -> dict[str, Any]:
    return said(USER, {"role": "assistant", "tool_calls": list(calls)}, USER)


def answer(**fields: Any) -> dict[str, Any]:
    return said(USER, {"role": "assistant", **fields}, USER)


def result(call_id: Any, *calls: Any) -> dict[str, Any]:
    asked = [{"role": "assistant", "tool_calls": list(calls)}] if calls else []
    return said(USER, *asked, {"role": "tool", "tool_call_id": call_id, "content": "1"})


def formatted(**fields: Any) -> dict[str, Any]:
    return {"response_format": fields}


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    # Messages
    "messages bytes": ({"messages": b"Hi"}, "messages"),
    "messages one mapping": ({"messages": USER}, "messages"),
    "messages a generator": ({"messages": (m for m in [USER])}, "messages"),
    "too many messages": (said(*[USER] * 5000), "messages"),
    "a message that is None": (said(None), "messages[0]"),
    "no role": (said({"content": "Hi"}), "messages[0].role"),
    "a role that cannot be hashed": (said({**USER, "role": {}}), "messages[0].role"),
    "a role in capitals": (said({**USER, "role": "User"}), "messages[0].role"),
    "OpenAI's old function role": (said(USER, {"role": "function", "name": "f", "content": ""}), "messages[1].role"),
    "content bytes": (said({**USER, "content": b"Hi"}), "messages[0].content"),
    "content without parts": (said({**USER, "content": []}), "messages[0].content"),
    "a part that is a string": (said({**USER, "content": ["Hi"]}), "messages[0].content[0].type"),
    "a text part without text": (said({**USER, "content": [{"type": "text"}]}), "messages[0].content[0].text"),
    "half a character in a part": (said({**USER, "content": [{"type": "text", "text": HALF}]}), "messages[0].content[0].text"),
    "an audio part": (said({**USER, "content": [{"type": "input_audio"}]}), "messages[0].content[0].type"),
    "a misspelt field": (said({**USER, "contnet": "Hi"}), "messages[0].contnet"),
    "images beside the content": (said({**USER, "images": ["…"]}), "messages[0].images"),
    "name a number": (said({**USER, "name": 5}), "messages[0].name"),
    "a call without its result": (said(USER, {"role": "assistant", "tool_calls": [call()]}), "messages[1].tool_calls"),
    "an assistant that says nothing": (answer(), "messages[1].content"),
    "an assistant's audio": (answer(content="x", audio={"id": "x"}), "messages[1].audio"),
    "an assistant's function_call": (answer(content="x", function_call={"name": "f"}), "messages[1].function_call"),
    # Calls and their results
    "a user's call": (said({**USER, "tool_calls": [call()]}), "messages[0].tool_calls"),
    "a user's tool_call_id": (said({**USER, "tool_call_id": "a"}), "messages[0].tool_call_id"),
    "calls a string": (answer(tool_calls="f()"), "messages[1].tool_calls"),
    "a call that is None": (called(None), "messages[1].tool_calls[0]"),
    "a call of another type": (called({"id": "a", "type": "custom", "custom": {}}), "messages[1].tool_calls[0]"),
    "a call without an id": (called({**call(), "id": None}), "messages[1].tool_calls[0].id"),
    "a call's id a number": (called(call(5)), "messages[1].tool_calls[0].id"),
    "two calls with one id": (called(call(), call()), "messages[1].tool_calls[1].id"),
    "a result of no call": (result("a"), "messages[1].tool_call_id"),
    "a result of another call": (result("b", call("a")), "messages[2].tool_call_id"),
    "a result's id a number": (result(5, call("a")), "messages[2].tool_call_id"),
    # Numbers
    "temperature a switch": ({"temperature": True}, "temperature"),
    "temperature infinite": ({"temperature": math.inf}, "temperature"),
    "temperature beyond all floats": ({"temperature": 10**400}, "temperature"),
    "temperature beyond all words": ({"temperature": HUGE}, "temperature"),
    "temperature without words": ({"temperature": Mute()}, "temperature"),
    "temperature complex": ({"temperature": 1j}, "temperature"),
    "top_p not a number": ({"top_p": math.nan}, "top_p"),
    "top_p a switch": ({"top_p": True}, "top_p"),
    "n below 0": ({"n": -1}, "n"),
    "n a switch": ({"n": True}, "n"),
    "n a fraction": ({"n": 1.0}, "n"),
    "n beyond all words": ({"n": HUGE}, "n"),
    "max_tokens beyond 2**31": ({"max_tokens": 2**40}, "max_tokens"),
    "max_tokens a string": ({"max_tokens": "5"}, "max_tokens"),
    "max_completion_tokens 0": ({"max_completion_tokens": 0}, "max_completion_tokens"),
    "seed 2**70": ({"seed": 2**70}, "seed"),
    "seed below 64 bits": ({"seed": -(2**63) - 1}, "seed"),
    "repetition_penalty 1e-300": ({"repetition_penalty": 1e-300}, "repetition_penalty"),
    "repetition_penalty the least float": ({"repetition_penalty": 5e-324}, "repetition_penalty"),
    "seed a switch": ({"seed": True}, "seed"),
    "seed not a number": ({"seed": math.nan}, "seed"),
    "frequency_penalty a switch": ({"frequency_penalty": False}, "frequency_penalty"),
    "presence_penalty not a number": ({"presence_penalty": math.nan}, "presence_penalty"),
    "repetition_penalty infinite": ({"repetition_penalty": math.inf}, "repetition_penalty"),
    "top_logprobs -1": ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    "top_logprobs a switch": ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
    "top_logprobs without logprobs": ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
    "top_k -2": ({"top_k": -2}, "top_k"),
    "top_k a fraction": ({"top_k": 40.0}, "top_k"),
    "top_k a switch": ({"top_k": True}, "top_k"),
    "top_k beyond 2**31": ({"top_k": 2**31}, "top_k"),
    "min_p above 1": ({"min_p": 1.01}, "min_p"),
    "min_p not a number": ({"min_p": math.nan}, "min_p"),
    "min_p a string": ({"min_p": "0.1"}, "min_p"),
    "typical_p below 0": ({"typical_p": -0.1}, "typical_p"),
    "typical_p a switch": ({"typical_p": True}, "typical_p"),
    "dry_multiplier below 0": ({"dry_multiplier": -1}, "dry_multiplier"),
    "dry_multiplier infinite": ({"dry_multiplier": math.inf}, "dry_multiplier"),
    "dry_base below 1": ({"dry_base": 0.5}, "dry_base"),
    "dry_base 1e300": ({"dry_base": 1e300}, "dry_base"),
    "dry_allowed_length 0": ({"dry_allowed_length": 0}, "dry_allowed_length"),
    "dry_allowed_length 65": ({"dry_allowed_length": 65}, "dry_allowed_length"),
    "dry_sequence_breakers a number": ({"dry_sequence_breakers": 5}, "dry_sequence_breakers"),
    "a breaker a number": ({"dry_sequence_breakers": ["a", 5]}, "dry_sequence_breakers"),
    "an empty breaker": ({"dry_sequence_breakers": ["a", ""]}, "dry_sequence_breakers[1]"),
    "a breaker of 65 bytes": ({"dry_sequence_breakers": "x" * 65}, "dry_sequence_breakers[0]"),
    "half a character as a breaker": ({"dry_sequence_breakers": [HALF]}, "dry_sequence_breakers[0]"),
    "65 breakers": ({"dry_sequence_breakers": ["x"] * 65}, "dry_sequence_breakers"),
    # logit_bias
    "logit_bias of no text": ({"logit_bias": {"": 1}}, "logit_bias"),
    "logit_bias of half a character": ({"logit_bias": {HALF: 1}}, "logit_bias"),
    "logit_bias of 2 kB": ({"logit_bias": {"x" * 2000: 1}}, "logit_bias"),
    "logit_bias of bytes": ({"logit_bias": {b"a": 1}}, "logit_bias"),
    "logit_bias of 200 for a word": ({"logit_bias": {"abc": 200}}, "logit_bias['abc']"),
    "logit_bias of +1": ({"logit_bias": {"+1": 1}}, "logit_bias"),
    "logit_bias below 0": ({"logit_bias": {"-1": 1}}, "logit_bias"),
    "logit_bias of a fraction": ({"logit_bias": {1.0: 1}}, "logit_bias"),
    "logit_bias of a switch": ({"logit_bias": {True: 1}}, "logit_bias"),
    "logit_bias beyond all words": ({"logit_bias": {HUGE: 1}}, "logit_bias"),
    "logit_bias of 6000 digits": ({"logit_bias": {"9" * 6000: 1}}, "logit_bias"),
    "logit_bias of one token twice": ({"logit_bias": {"7": 1, 7: 2}}, "logit_bias"),
    "logit_bias of 5000 tokens": ({"logit_bias": dict.fromkeys(range(5000), 1)}, "logit_bias"),
    "logit_bias not a number": ({"logit_bias": {"7": math.nan}}, "logit_bias[7]"),
    "logit_bias None": ({"logit_bias": {"7": None}}, "logit_bias[7]"),
    # Stops and streams
    "half a character to stop at": ({"stop": HALF}, "stop[0]"),
    "stop bytes": ({"stop": b"x"}, "stop"),
    "stops in a list in a list": ({"stop": [["x"]]}, "stop"),
    "a stop that is None": ({"stop": [None]}, "stop"),
    "stop a set": ({"stop": {"x"}}, "stop"),
    "stream a word": ({"stream": "true"}, "stream"),
    "stream_options a list": ({"stream": True, "stream_options": []}, "stream_options"),
    "include_usage a word": ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    # Formats
    "a type as a format": ({"response_format": dict}, "response_format"),
    "a format without a type": (formatted(), "response_format.type"),
    "a format's type a list": (formatted(type=["text"]), "response_format.type"),
    "a schema for plain text": (formatted(type="text", schema={}), "response_format.schema"),
    "json_schema for a json_object": (formatted(type="json_object", json_schema={}), "response_format.json_schema"),
    "a misspelt schema": (formatted(type="json_object", shcema={}), "response_format.shcema"),
    "a schema of bytes": (formatted(type="json_object", schema=b"{}"), "response_format"),
    "a schema with NaN": (formatted(type="json_object", schema={"minimum": math.nan}), "response_format"),
    "a schema with half a character": (formatted(type="json_object", schema={"const": HALF}), "response_format"),
    "a schema that holds itself": (formatted(type="json_object", schema=ROUND), "response_format"),
    "a schema deeper than Python goes": (formatted(type="json_object", schema=DEEP), "response_format"),
    "a schema of 300 kB": (formatted(type="json_object", schema={"description": "x" * 300_000}), "response_format"),
    # Tools
    "a tool of another type": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
    "a tool's name with a space": ({"tools": [tool("a b")]}, "tools[0].function.name"),
    "a tool's name of two lines": ({"tools": [tool("a\nb")]}, "tools[0].function.name"),
    "a tool's name a number": ({"tools": [tool(5)]}, "tools[0].function.name"),
    "misspelt parameters": ({"tools": [tool(paramters={})]}, "tools[0].function.paramters"),
    "parameters a list": ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
    "parameters of an array": ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
    "strict a word": ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
    "a description that is a number": ({"tools": [tool(description=5)]}, "tools[0].function.description"),
    "too many tools": ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools"),
    "a tool that holds itself": ({"tools": [tool(parameters=ROUND)]}, "tools[0]"),
    "tool_choice required of no tools": ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    "two tools of one name": ({"tools": [tool(), tool("g"), tool()]}, "tools[2].function.name"),
    "tool_choice of another tool": ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function.name"),
    "tool_choice a list": ({"tools": [tool()], "tool_choice": ["auto"]}, "tool_choice"),
    "tool_choice without a name": ({"tools": [tool()], "tool_choice": {"function": {}}}, "tool_choice.function.name"),
    "tool_choice of another type": ({"tools": [tool()], "tool_choice": {"type": "custom", "function": {"name": "f"}}}, "tool_choice.type"),
    "parallel_tool_calls a number": ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    # The rest
    "ignore_eos a number": ({"ignore_eos": 1}, "ignore_eos"),
    "enable_thinking a word": ({"enable_thinking": "yes"}, "enable_thinking"),
    "model a list": ({"model": ["demo"]}, "model"),
    "model an empty text": ({"model": ""}, "model"),
    "half a character as user": ({"user": HALF}, "user"),
    "metadata of bytes": ({"metadata": {"a": b"x"}}, "metadata"),
    "metadata that holds itself": ({"metadata": ROUND}, "metadata"),
    "store": ({"store": True}, "store"),
    "another service_tier": ({"service_tier": "priority"}, "service_tier"),
    "modalities with audio": ({"modalities": ["text", "audio"]}, "modalities"),
    "request_id a number": ({"request_id": 5}, "request_id"),
    "request_id of 1000 characters": ({"request_id": "x" * 1000}, "request_id"),
    "extra_body a string": ({"extra_body": "x"}, "extra_body"),
    "extra_body with NaN": ({"extra_body": {"temperature": math.nan}}, "extra_body"),
    "extra_body in extra_body": ({"extra_body": {"extra_body": {"x": 1}}}, "extra_body"),
    "extra_body against a good field": ({"temperature": 1, "extra_body": {"temperature": 9}}, "temperature"),
    "an unknown field beyond all words": ({"foo": HUGE}, "foo"),
}  # fmt: skip

COMPLETIONS: dict[str, tuple[dict[str, Any], str]] = {
    "prompt None": ({"prompt": None}, "prompt"),
    "prompt a number": ({"prompt": 5}, "prompt"),
    "prompt bytes": ({"prompt": b"x"}, "prompt"),
    "prompt a mapping": ({"prompt": {"text": "x"}}, "prompt"),
    "half a character": ({"prompt": HALF}, "prompt"),
    "a prompt of 5 MB": ({"prompt": "x" * 5_000_000}, "prompt"),
    "two million ids": ({"prompt": [1] * 2_000_000}, "prompt"),
    "ids that are switches": ({"prompt": [True]}, "prompt[0]"),
    "lists in a list in a list": ({"prompt": [[[1, 2]]]}, "prompt[0][0]"),
    "an id of 2**40": ({"prompt": [1, 2**40]}, "prompt[1]"),
    "an id beyond all words": ({"prompt": [HUGE]}, "prompt[0]"),
    "an id among texts": ({"prompt": [1, "a"]}, "prompt[1]"),
    "logprobs 21": ({"logprobs": 21}, "logprobs"),
    "logprobs -1": ({"logprobs": -1}, "logprobs"),
    "echo a number": ({"echo": 1}, "echo"),
    "echo with a switch": ({"echo": True, "logprobs": True}, "logprobs"),
    "suffix": ({"suffix": "x"}, "suffix"),
    "best_of": ({"best_of": 2}, "best_of"),
    "tools": ({"tools": [tool()]}, "tools"),
    "top_logprobs": ({"top_logprobs": 1}, "top_logprobs"),
    "max_tokens twice": ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    "enable_thinking": ({"enable_thinking": True}, "enable_thinking"),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
}  # fmt: skip

EMBEDDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "input None": ({"input": None}, "input"),
    "input a number": ({"input": 5}, "input"),
    "input bytes": ({"input": b"x"}, "input"),
    "input a generator": ({"input": (x for x in "ab")}, "input"),
    "an empty text": ({"input": ""}, "input"),
    "an empty list of ids": ({"input": [[]]}, "input[0]"),
    "an id among texts": ({"input": ["a", 5]}, "input[1]"),
    "None among texts": ({"input": [None]}, "input[0]"),
    "a switch": ({"input": [True]}, "input[0]"),
    "an id below 0": ({"input": [[1], [-1]]}, "input[1][0]"),
    "half a character": ({"input": HALF}, "input"),
    "3000 texts": ({"input": ["a"] * 3000}, "input"),
    "a text of 5 MB": ({"input": "x" * 5_000_000}, "input"),
    "9 MB of texts": ({"input": ["x" * 3_000_000] * 3}, "input"),
    "truncate a word": ({"input": "a", "truncate": "yes"}, "truncate"),
    "dimensions a switch": ({"input": "a", "dimensions": True}, "dimensions"),
    "dimensions a fraction": ({"input": "a", "dimensions": 2.0}, "dimensions"),
    "dimensions -1": ({"input": "a", "dimensions": -1}, "dimensions"),
    "encoding_format a number": ({"input": "a", "encoding_format": 1}, "encoding_format"),
    "stream": ({"input": "a", "stream": True}, "stream"),
    "temperature": ({"input": "a", "temperature": 1}, "temperature"),
}  # fmt: skip

CASES = [
    *[("chat", name) for name in CHATS],
    *[("completion", name) for name in COMPLETIONS],
    *[("embedding", name) for name in EMBEDDINGS],
]
TABLES: dict[str, Any] = {
    "chat": (check_chat, CHATS, {"messages": [USER]}),
    "completion": (check_completion, COMPLETIONS, {"prompt": "Hi"}),
    "embedding": (check_embedding, EMBEDDINGS, {}),
}


def check_message(caught: BadRequestError, param: str) -> None:
    """The error names the field and says something after the value, in a readable length."""
    assert caught.param == param, caught
    assert caught.message.startswith(param)
    _, colon, remedy = caught.message.partition(": ")
    assert colon
    assert len(remedy) > 5
    assert len(caught.message) < 1000


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_a_bad_request(kind: str, case: str) -> None:
    check, table, good = TABLES[kind]
    fields, param = table[case]
    with pytest.raises(BadRequestError) as caught:
        check({**good, **fields})
    check_message(caught.value, param)


def test_the_caps_are_what_is_still_taken() -> None:
    assert check_chat({"messages": [USER] * LIMITS.messages})
    assert check_chat({"messages": [{**USER, "content": "x" * LIMITS.prompt_bytes}]})
    assert check_chat({"messages": [USER], "stop": ["x" * LIMITS.stop_bytes] * LIMITS.stop_strings})
    assert check_chat({"messages": [USER], "n": LIMITS.choices, "seed": 2**64 - 1})
    tools = [tool(f"f{i}") for i in range(LIMITS.tools)]
    assert check_chat({"messages": [USER], "tools": tools})["tools"] == tools
    bias = dict.fromkeys(range(LIMITS.logit_bias), -100)
    assert check_chat({"messages": [USER], "logit_bias": bias})["logit_bias"] == bias
    assert check_embedding({"input": ["a"] * LIMITS.embedding_inputs})


def test_what_answers_carry_may_come_back() -> None:
    reply = {"role": "assistant", "content": "4", "refusal": None, "annotations": [],
             "audio": None, "function_call": None, "reasoning_content": "2 + 2"}  # fmt: skip
    asked = {"role": "assistant", "content": None, "tool_calls": [call("a", index=0), call("b")]}
    results = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ba"]
    checked = check_chat({"messages": [USER, reply, USER, asked, *results]})["messages"]
    assert checked[1] == {"role": "assistant", "content": "4"}
    assert [m.get("tool_call_id") for m in checked[4:]] == ["b", "a"]


BAD_LOADS: dict[str, tuple[Any, Any, str]] = {
    "no models": ([], None, "model_id"),
    "a number": ([5], None, "model_id"),
    "half a character": ([HALF], None, "model_id"),
    "one twice": (["a", "a"], None, "model_id"),
    "options for another count": (["a"], [{}, {}], "chat_opts"),
    "options a number": (["a"], [5], "chat_opts"),
    "an unknown option": (["a"], [{"nonsense": 1}], "chat_opts.nonsense"),
    "an option that is no JSON": (["a"], [{"conv_template": Mute}], "chat_opts"),
    "temperature not a number": (["a"], [{"temperature": math.nan}], "chat_opts"),
    "temperature a word": (["a"], [{"temperature": "hot"}], "chat_opts.temperature"),
    "top_p below 0": (["a"], [{"top_p": -1}], "chat_opts.top_p"),
    "a window of -5": (["a"], [{"context_window_size": -5}], "chat_opts.context_window_size"),
    "a chunk of 0": (["a"], [{"prefill_chunk_size": 0}], "chat_opts.prefill_chunk_size"),
}


def test_a_model_s_path_may_be_a_path() -> None:
    assert LoadTarget.read([Path("models/tiny.gguf"), "b"], None).model_ids == (
        str(Path("models/tiny.gguf")),
        "b",
    )
    assert check_chat({"messages": [USER], "model": Path("/a/b")})["model"] == "/a/b"
    assert model_list(Path("/a/b")) == ["/a/b"]
    with pytest.raises(BadRequestError, match="model_id"):
        LoadTarget.read(["a", Path("a")], None)


@pytest.mark.parametrize("case", BAD_LOADS)
def test_a_bad_reload(case: str) -> None:
    ids, opts, param = BAD_LOADS[case]
    with pytest.raises(BadRequestError) as caught:
        LoadTarget.read(ids, opts)
    assert caught.value.param == param


def test_overrides_of_an_app_config_are_chat_opts() -> None:
    record = {"model_id": "x", "model": "y", "overrides": {"temperature": 9}}
    with pytest.raises(BadRequestError) as caught:
        AppConfig.read({"model_list": [record]})
    assert caught.value.param == "app_config.model_list[0].overrides.temperature"


@pytest.mark.parametrize("name", [HALF, math.nan, Mute()])
def test_an_app_config_is_plain_json(name: Any) -> None:
    record = {"model_id": "x", "model": "y", "required_features": name}
    with pytest.raises(BadRequestError, match="give plain JSON values"):
        AppConfig.read({"model_list": [record]})


@pytest.mark.parametrize("level", [None, 5, [], "LOUD", ""])
def test_a_bad_log_level(level: Any) -> None:
    with pytest.raises(BadRequestError, match="log_level = "):
        check_log_level(level)


NUMPY: dict[str, Any] = {
    "seed": np.int64(-7),
    "max_tokens": np.uint16(5),
    "n": np.int8(2),
    "temperature": np.float32(0.5),
    "top_p": np.float16(0),
    "frequency_penalty": np.int32(1),
    "top_k": np.int16(40),
    "min_p": np.float32(0.05),
    "typical_p": np.float64(0.9),
    "dry_multiplier": np.float32(0.8),
    "dry_base": np.int64(2),
    "dry_allowed_length": np.uint8(3),
    "max_completion_tokens": np.int64(7),
    "logprobs": np.True_,
    "top_logprobs": np.uint8(3),
    "logit_bias": {np.int64(4): np.float32(-2)},
    "response_format": {"type": "json_object", "schema": {"maxProperties": np.int64(2)}},
}


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_may_be_numpy_s(name: str) -> None:
    plain = {"logprobs": True} if name == "top_logprobs" else {}
    checked = check_chat({"messages": [USER], name: NUMPY[name], **plain})
    kept = "max_tokens" if name == "max_completion_tokens" else name
    assert json.loads(json.dumps(checked[kept])) is not None
    assert check_chat(checked) == checked


def test_minus_one_turns_top_k_off_and_a_breaker_may_be_alone() -> None:
    checked = check_chat({"messages": [USER], "top_k": -1, "dry_sequence_breakers": "\n"})
    assert (checked["top_k"], checked["dry_sequence_breakers"]) == (0, ["\n"])


def test_keys_of_logit_bias_are_ids_or_texts() -> None:
    given = {5: 1, "7": 2, "word": 3, " two words": 4, "٣": 5, "1.5": 6, "<|end|>": 7}
    checked = check_chat({"messages": [USER], "logit_bias": given})["logit_bias"]
    assert checked == {5: 1, 7: 2, "word": 3, " two words": 4, "٣": 5, "1.5": 6, "<|end|>": 7}


def test_token_ids_may_be_numpy_s() -> None:
    ids = list(np.arange(4))
    assert check_completion({"prompt": ids})["prompt"] == [0, 1, 2, 3]
    assert check_embedding({"input": ids})["input"] == [[0, 1, 2, 3]]
    assert check_completion({"prompt": "x", "logprobs": np.int64(2)})["logprobs"] == 2
    for wrong in ([np.float32(1)], [np.True_], [np.int64(-1)]):
        with pytest.raises(BadRequestError):
            check_completion({"prompt": wrong})


SYSTEM, LATER = {"role": "system", "content": "x"}, {"role": "developer", "content": "y"}
REPLY = {"role": "assistant", "content": "z"}


@pytest.mark.parametrize(
    "messages",
    [[SYSTEM], [LATER], [SYSTEM, LATER], [USER, SYSTEM], [SYSTEM, USER, LATER, USER], [USER, REPLY],
     [SYSTEM, REPLY], [REPLY], [USER, REPLY, LATER]],
)  # fmt: skip
def test_any_order_of_messages_is_taken(messages: list[Any]) -> None:
    roles = ["system" if m["role"] == "developer" else m["role"] for m in messages]
    assert [m["role"] for m in check_chat({"messages": messages})["messages"]] == roles


def test_a_pydantic_model_as_a_format_is_told_what_to_write() -> None:
    class City(pydantic.BaseModel):
        name: str

    with pytest.raises(BadRequestError) as caught:
        response_format("response_format", City)
    written = caught.value.message.partition("give ")[2].partition(", and read")[0]
    meant = eval(written, {"City": City})
    assert response_format("response_format", meant)["json_schema"]["name"] == "City"

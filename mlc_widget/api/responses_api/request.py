"""Checks requests for responses, and turns them into chat requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.request_values import (
    JSONDict,
    bad,
    boolean,
    identifier,
    integer,
    known,
    mapping,
    one_of,
    shortened,
    string,
)
from mlc_widget.api.requests import check_chat
from mlc_widget.api.responses_api.items import input_items, messages

_SAME: Final = (
    "model", "temperature", "top_p", "parallel_tool_calls", "user", "metadata",
    "safety_identifier", "prompt_cache_key", "service_tier", "seed", "stop", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "logit_bias", "ignore_eos", "enable_thinking",
    "top_k", "min_p", "typical_p", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_sequence_breakers",
)  # fmt: skip
"""Fields that mean the same in a chat request; those from ``seed`` on are not OpenAI's."""
_OWN: Final = (
    "input", "instructions", "include", "max_output_tokens", "max_tool_calls",
    "previous_response_id", "reasoning", "store", "stream", "stream_options", "text",
    "tool_choice", "tools", "top_logprobs", "truncation", "background",
)  # fmt: skip
_REFUSED: Final[Mapping[str, str]] = {
    "max_tokens": "use max_output_tokens.",
    "max_completion_tokens": "use max_output_tokens.",
    "conversation": "use previous_response_id.",
    "prompt": "prompt templates are OpenAI's; give instructions and input.",
    "context_management": "the context is never compacted; leave it out.",
    "moderation": "the engine has no moderation; leave it out.",
    "prompt_cache_options": "the prefix cache needs no options; leave it out.",
    "prompt_cache_retention": "the cache lasts as long as the worker; leave it out.",
}
_LOGPROBS: Final = "message.output_text.logprobs"
_CHAT_NAMES: Final[Mapping[str, str]] = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
}


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A checked request.

    Attributes:
        chat: The streamed chat request that answers it, without an id.
        items: The input items of this request alone, each with its id.
        echo: The fields that a response repeats.
        stream: Whether to answer with events.
        store: Whether to keep the response.
    """

    chat: JSONDict
    items: list[JSONDict]
    echo: JSONDict
    stream: bool
    store: bool


def previous_id(body: Mapping[str, Any]) -> str | None:
    """The id of the response that a request continues, if any.

    Raises:
        BadRequestError: It is not a string.
    """
    given = body.get("previous_response_id")
    return None if given is None else identifier("previous_response_id", given)


def check_response(body: Mapping[str, Any], history: Sequence[JSONDict]) -> ResponseRequest:
    """Check a request.

    Args:
        body: The request.
        history: The items of the responses that it continues.

    Raises:
        BadRequestError: A field is invalid; the message names it and its value.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name, why in _REFUSED.items():
        if name in given:
            raise UnsupportedFieldError(f"{name} = {shortened(given[name])}: {why}", param=name)
    known("", given, (*_SAME, *_OWN))
    _check_neutral(given)
    if "input" not in given:
        raise BadRequestError("input: this field is required.", param="input")
    items = input_items("input", given["input"])
    said = messages([*history, *items])
    if "instructions" in given:
        text = string("instructions", given["instructions"])
        said.insert(0, {"role": "system", "content": text})
    chat: JSONDict = {name: given[name] for name in _SAME if name in given}
    chat |= {"messages": said, "stream": True, "stream_options": {"include_usage": True}}
    if "max_output_tokens" in given:
        chat["max_tokens"] = given["max_output_tokens"]
    chat |= _thinking(given) | _logprobs(given) | _format(given) | _tools(given)
    try:
        checked = check_chat(chat)
    except BadRequestError as error:
        raise _renamed(error) from None
    return ResponseRequest(
        checked,
        items,
        _echo(given),
        boolean("stream", given.get("stream", False)),
        boolean("store", given.get("store", True)),
    )


def _check_neutral(given: Mapping[str, Any]) -> None:
    """Check fields of which only the values that have no effect are accepted."""
    one_of(False)("background", given.get("background", False))
    one_of("disabled")("truncation", given.get("truncation", "disabled"))
    if "max_tool_calls" in given:  # of tools that OpenAI runs, of which there are none
        integer(1, 2**31 - 1)("max_tool_calls", given["max_tool_calls"])
    if "stream_options" in given:
        options = mapping("stream_options", given["stream_options"])
        known("stream_options", options, ("include_obfuscation",))
        at = "stream_options.include_obfuscation"
        one_of(False)(at, options.get("include_obfuscation", False))


def _thinking(given: Mapping[str, Any]) -> JSONDict:
    reasoning = mapping("reasoning", given.get("reasoning", {}))
    asked = {name: value for name, value in reasoning.items() if value is not None}
    if asked == {"effort": "none"}:
        return {"enable_thinking": False}
    if asked:
        raise UnsupportedFieldError(
            f"reasoning = {shortened(asked)}: use enable_thinking, or an effort of none.",
            param="reasoning",
        )
    return {}


def _logprobs(given: Mapping[str, Any]) -> JSONDict:
    include = given.get("include", ())
    if not isinstance(include, list | tuple):
        raise bad("include", include, "give a list.")
    for i, one in enumerate(include):
        one_of(_LOGPROBS)(f"include[{i}]", one)
    if "top_logprobs" in given:
        return {"logprobs": True, "top_logprobs": given["top_logprobs"]}
    return {"logprobs": True} if include else {}


def _format(given: Mapping[str, Any]) -> JSONDict:
    text = mapping("text", given.get("text", {}))
    asked = {name: value for name, value in text.items() if value is not None}
    known("text", asked, ("format", "verbosity"))
    one_of("medium")("text.verbosity", asked.get("verbosity", "medium"))
    if "format" not in asked:
        return {}
    form = mapping("text.format", asked["format"])
    if form.get("type") != "json_schema":
        return {"response_format": form}
    known("text.format", form, ("type", "name", "schema", "strict", "description"))
    if not isinstance(form.get("schema"), Mapping):
        raise bad("text.format.schema", form.get("schema"), "give a JSON schema.")
    schema = {name: value for name, value in form.items() if name != "type" and value is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(given: Mapping[str, Any]) -> JSONDict:
    asked: JSONDict = {}
    offered = given.get("tools", ())
    if not isinstance(offered, list | tuple):
        raise bad("tools", offered, "give a list of function tools.")
    tools = [_tool(f"tools[{i}]", tool) for i, tool in enumerate(offered)]
    choice = given.get("tool_choice")
    if isinstance(choice, Mapping):
        if choice.get("type") == "allowed_tools":
            tools, choice = _allowed(tools, choice)
        elif choice.get("type") == "function":
            function = {"name": identifier("tool_choice.name", choice.get("name"))}
            choice = {"type": "function", "function": function}
        else:
            raise UnsupportedFieldError(
                f"tool_choice.type = {choice.get('type')!r}: the engine has function tools only.",
                param="tool_choice.type",
            )
    if tools:
        asked["tools"] = tools
    if choice is not None:
        asked["tool_choice"] = choice
    return asked


def _tool(param: str, value: Any) -> JSONDict:
    tool = mapping(param, value)
    if tool.get("type") != "function":
        raise UnsupportedFieldError(
            f"{param}.type = {tool.get('type')!r}: the engine has function tools only.",
            param=f"{param}.type",
        )
    names = ("name", "description", "parameters", "strict")
    given = {name: one for name, one in tool.items() if one is not None}
    known(param, given, ("type", *names))
    return {"type": "function", "function": {n: given[n] for n in names if n in given}}


def _allowed(tools: list[JSONDict], choice: Mapping[str, Any]) -> tuple[list[JSONDict], Any]:
    mode = one_of("auto", "required")("tool_choice.mode", choice.get("mode", "auto"))
    allowed = choice.get("tools")
    if not isinstance(allowed, list | tuple) or not allowed:
        raise bad("tool_choice.tools", allowed, "give a list of function tools.")
    offered = {tool["function"]["name"]: tool for tool in tools}
    names = []
    for i, one in enumerate(allowed):
        name = one.get("name") if isinstance(one, Mapping) else one
        if not isinstance(name, str) or name not in offered:
            raise bad(f"tool_choice.tools[{i}]", name, "it is not one of the tools.")
        names.append(name)
    return [tool for name, tool in offered.items() if name in names], mode


def _renamed(error: BadRequestError) -> BadRequestError:
    """An error about a field of the chat request, with the field's name in the Responses API."""
    for chat, ours in _CHAT_NAMES.items():
        if error.param is not None and error.param.startswith(chat):
            message = error.message.replace(chat, ours, 1)
            return type(error)(message, code=error.code, param=ours)
    return error


def _echo(given: Mapping[str, Any]) -> JSONDict:
    """The fields of the request that its response repeats, with the defaults of those not given."""
    text = given.get("text") or {}
    tools = [{"strict": None, "parameters": None, **tool} for tool in given.get("tools", ())]
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "reasoning": given.get("reasoning") or {"effort": None, "summary": None},
        "store": given.get("store", True),
        "temperature": given.get("temperature"),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": tools,
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p"),
        "truncation": "disabled",
        "user": given.get("user"),
        "background": False,
        "service_tier": "default",
    }

"""Checks on the parts of a chat request that are more than a value: messages, tools, formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_values import JSONDict, bad, encoded_size, identifier, mapping, string

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def response_format(param: str, value: Any) -> JSONDict:
    """OpenAI's and WebLLM's ``response_format``; its schema or grammar is compiled later."""
    checked = mapping(param, value)
    kinds = ("text", "json_object", "json_schema", "regex", "grammar", "structural_tag")
    if checked.get("type") not in kinds:
        raise bad(f"{param}.type", checked.get("type"), f"give one of {', '.join(kinds)}.")
    return checked


def tools(param: str, value: Any) -> list[JSONDict]:
    """OpenAI's ``tools``."""
    if not isinstance(value, list | tuple) or len(value) > LIMITS.tools:
        raise bad(param, value, f"give a list of at most {LIMITS.tools} tools.")
    tools = []
    for i, tool in enumerate(value):
        at = f"{param}[{i}]"
        checked = mapping(at, tool)
        if checked.get("type") != "function" or not isinstance(checked.get("function"), Mapping):
            raise bad(at, tool, 'give {"type": "function", "function": {"name": …}}.')
        identifier(f"{at}.function.name", checked["function"].get("name"))
        tools.append(checked)
    return tools


def tool_choice(param: str, value: Any) -> Any:
    """OpenAI's ``tool_choice``: a word, or a function by name."""
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        identifier(f"{param}.function.name", value["function"].get("name"))
        return dict(value)
    raise bad(param, value, "give none, auto, required, or a function by name.")


def content(param: str, value: Any) -> str:
    """A message's text, given as such or in text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        texts = []
        for i, part in enumerate(value):
            if not isinstance(part, Mapping) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise bad(f"{param}[{i}].type", kind, "only text parts are supported.")
            texts.append(string(f"{param}[{i}].text", part.get("text")))
        return "".join(texts)
    raise bad(param, value, "give a string, or a list of text parts.")


def messages(param: str, value: Any) -> list[JSONDict]:
    """A conversation: dicts, or openai's message objects as they came back."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise bad(param, value, 'give a list such as [{"role": "user", "content": "Hello"}].')
    if not value:
        raise bad(param, value, "give at least one message.")
    if len(value) > LIMITS.messages:
        raise bad(param, len(value), f"give at most {LIMITS.messages} messages.")
    checked: list[JSONDict] = []
    size = 0
    for i, message in enumerate(value):
        one = _message(f"{param}[{i}]", message)
        size += encoded_size(f"{param}[{i}].content", one.get("content") or "")
        checked.append(one)
    if size > LIMITS.prompt_bytes:
        raise bad(param, f"{size} bytes", f"give at most {LIMITS.prompt_bytes} bytes of text.")
    return checked


def _message(param: str, message: Any) -> JSONDict:
    if hasattr(message, "model_dump"):  # an openai.types message, given back as it came
        message = message.model_dump(exclude_none=True)
    if not isinstance(message, Mapping):
        raise bad(param, message, 'give a mapping such as {"role": "user", "content": "Hello"}.')
    role = message.get("role")
    if role not in _ROLES:
        raise bad(f"{param}.role", role, f"give one of {', '.join(_ROLES)}.")
    one: JSONDict = {"role": "system" if role == "developer" else role}
    if role == "assistant" and message.get("tool_calls"):
        one["tool_calls"] = _tool_calls(f"{param}.tool_calls", message["tool_calls"])
        given = message.get("content")
        one["content"] = None if given is None else content(f"{param}.content", given)
    else:
        one["content"] = content(f"{param}.content", message.get("content"))
    if role == "tool":
        one["tool_call_id"] = identifier(f"{param}.tool_call_id", message.get("tool_call_id"))
    if message.get("name") is not None:
        one["name"] = identifier(f"{param}.name", message["name"])
    return one


def _tool_calls(param: str, value: Any) -> list[JSONDict]:
    if not isinstance(value, list | tuple) or len(value) > LIMITS.tools:
        raise bad(param, value, f"give a list of at most {LIMITS.tools} calls.")
    calls = []
    for i, call in enumerate(value):
        checked = mapping(f"{param}[{i}]", call)
        function = checked.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise bad(f"{param}[{i}]", call, 'give {"id": …, "function": {"name", "arguments"}}.')
        calls.append(checked)
    return calls

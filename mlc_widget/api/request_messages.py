"""Checks on the structured parts of a chat request: messages, tools, response formats."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_values import (
    JSONDict,
    bad,
    boolean,
    encoded_size,
    identifier,
    known,
    mapping,
    string,
)

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_MESSAGE: Final = ("role", "content", "name", "tool_calls", "tool_call_id")
_GIVEN_BACK: Final = ("refusal", "annotations", "reasoning_content", "reasoning")
"""Other fields that answers have, here or elsewhere; they are not shown to the model."""
_FORMATS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "text": (),
    "json_object": ("schema",),
    "json_schema": ("json_schema",),
    "regex": ("regex",),
    "grammar": ("grammar",),
    "structural_tag": None,  # of several forms: checked when it is compiled
}


def response_format(param: str, value: Any) -> JSONDict:
    """OpenAI's and WebLLM's ``response_format``; its schema or grammar is compiled later."""
    if isinstance(value, type):
        raise bad(param, value, _of_type(value))
    checked = mapping(param, value)
    kind = checked.get("type")
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise bad(f"{param}.type", kind, f"give one of {', '.join(_FORMATS)}.")
    fields = _FORMATS[kind]
    if fields is not None:
        given = {name: v for name, v in checked.items() if v is not None}
        known(param, given, ("type", *fields))
    return checked


def _of_type(value: type) -> str:
    """What to write in place of a type."""
    name = value.__name__
    if not hasattr(value, "model_json_schema"):
        return (
            "give a mapping with a JSON schema: TypeAdapter(T).json_schema() of pydantic makes one "
            "of most types."
        )
    return (
        f'give {{"type": "json_schema", "json_schema": {{"name": "{name}", "schema": '
        f"{name}.model_json_schema()}}}}, and read the reply by {name}.model_validate_json("
        "reply.choices[0].message.content); or call engine.openai_client().chat.completions.parse, "
        "which takes the class itself."
    )


def tools(param: str, value: Any) -> list[JSONDict]:
    """OpenAI's ``tools``; what their parameters allow is compiled later."""
    if not isinstance(value, list | tuple) or len(value) > LIMITS.tools:
        raise bad(param, value, f"give a list of at most {LIMITS.tools} tools.")
    checked: list[JSONDict] = []
    names: set[str] = set()
    for i, one in enumerate(value):  # a name comes once: a large tool cannot be there many times
        checked.append(_tool(f"{param}[{i}]", one))
        name = checked[-1]["function"]["name"]
        if name in names:
            raise bad(f"{param}[{i}].function.name", name, "two tools have this name.")
        names.add(name)
    return checked


def _tool(param: str, value: Any) -> JSONDict:
    tool = mapping(param, value)
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise bad(param, value, 'give {"type": "function", "function": {"name": …}}.')
    known(param, tool, ("type", "function"))
    at = f"{param}.function"
    known(at, function, ("name", "description", "parameters", "strict"))
    name = function.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w./:-]{1,128}", name):
        raise bad(f"{at}.name", name, "give 1 to 128 letters, digits and any of _ . / : -")
    if function.get("description") is not None:
        string(f"{at}.description", function["description"])
    if function.get("strict") is not None:
        boolean(f"{at}.strict", function["strict"])
    parameters = function.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise bad(f"{at}.parameters", parameters, "give a JSON schema of an object.")
        if parameters.get("type", "object") != "object":
            raise bad(
                f"{at}.parameters.type",
                parameters["type"],
                "give 'object', since the arguments of a call are an object.",
            )
    return tool


def tool_choice(param: str, value: Any) -> Any:
    """OpenAI's ``tool_choice``: a keyword, or a function by name."""
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        if value.get("type", "function") != "function":
            raise bad(f"{param}.type", value["type"], "give function.")
        identifier(f"{param}.function.name", value["function"].get("name"))
        return mapping(param, value)
    raise bad(param, value, "give none, auto, required, or a function by name.")


def check_choice(choice: Any, offered: Sequence[JSONDict]) -> None:
    """Refuse a checked ``tool_choice`` that the checked ``tools`` cannot meet."""
    if choice in (None, "none", "auto"):
        return
    if not offered:
        raise bad("tool_choice", choice, "it needs tools.")
    names = [tool["function"]["name"] for tool in offered]
    if isinstance(choice, Mapping) and choice["function"]["name"] not in names:
        wanted = choice["function"]["name"]
        raise bad("tool_choice.function.name", wanted, f"not one of the tools: {', '.join(names)}.")


def content(param: str, value: Any) -> str:
    """A message's text, given as such or in text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        if not value:
            raise bad(param, value, "give at least one text part.")
        texts: list[str] = []
        size = 0
        for i, part in enumerate(value):
            if not isinstance(part, Mapping) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise bad(f"{param}[{i}].type", kind, "only text parts are supported.")
            texts.append(string(f"{param}[{i}].text", part.get("text")))
            size += len(texts[-1])
            if size > LIMITS.prompt_bytes:  # one part may be there many times
                raise _too_large(param, value)
        return "".join(texts)
    raise bad(param, value, "give a string, or a list of text parts.")


def _too_large(param: str, value: Any) -> BadRequestError:
    return bad(param, value, f"it is too large; give at most {LIMITS.prompt_bytes} bytes of text.")


def messages(param: str, value: Any) -> list[JSONDict]:
    """A conversation: dicts, or openai's message objects as they came back."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise bad(param, value, 'give a list such as [{"role": "user", "content": "Hello"}].')
    if not value:
        raise bad(param, value, "give at least one message.")
    if len(value) > LIMITS.messages:
        raise bad(param, len(value), f"give at most {LIMITS.messages} messages.")
    checked: list[JSONDict] = []
    called: set[str] = set()
    size = 0
    for i, message in enumerate(value):
        one = _message(f"{param}[{i}]", message)
        called.update(call["id"] for call in one.get("tool_calls", ()))
        if one["role"] == "tool" and one["tool_call_id"] not in called:
            at = f"{param}[{i}].tool_call_id"
            raise bad(at, one["tool_call_id"], "no tool call in an earlier message has this id.")
        size += encoded_size(f"{param}[{i}].content", one.get("content") or "")
        for call in one.get("tool_calls", ()):
            size += sum(len(text.encode()) for text in (call["id"], *call["function"].values()))
        checked.append(one)
        if size > LIMITS.prompt_bytes:  # one message may be there many times
            raise _too_large(param, value)
    return checked


def _message(param: str, message: Any) -> JSONDict:
    if hasattr(message, "model_dump"):  # an openai.types message, given back as it came
        message = message.model_dump(exclude_none=True)
    if not isinstance(message, Mapping):
        raise bad(param, message, 'give a mapping such as {"role": "user", "content": "Hello"}.')
    role = message.get("role")
    if role not in _ROLES:
        raise bad(f"{param}.role", role, f"give one of {', '.join(_ROLES)}.")
    _check_fields(param, role, message)
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


def _check_fields(param: str, role: str, message: Mapping[str, Any]) -> None:
    """Refuse fields that would have no effect: those of other roles, and misspelt ones."""
    given = {name: value for name, value in message.items() if value is not None}
    if "audio" in given:
        raise bad(f"{param}.audio", given["audio"], "the engine takes text only.")
    if "function_call" in given:
        raise bad(f"{param}.function_call", given["function_call"], "give tool_calls.")
    for name, owner in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
        if given.get(name) and role != owner:
            raise bad(f"{param}.{name}", given[name], f"only messages of role {owner} may have it.")
    fields = {name: value for name, value in given.items() if name not in _GIVEN_BACK}
    known(param, fields, _MESSAGE)


def _tool_calls(param: str, value: Any) -> list[JSONDict]:
    """The calls of an earlier answer, which may have been cut short: arguments may be any text."""
    if not isinstance(value, list | tuple):
        raise bad(param, value, "give a list of calls.")
    calls: dict[str, JSONDict] = {}
    size = 0
    for i, given in enumerate(value):
        at = f"{param}[{i}]"
        call = given.model_dump() if hasattr(given, "model_dump") else given
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise bad(at, given, 'give {"id": …, "function": {"name", "arguments"}}.')
        call_id = identifier(f"{at}.id", call.get("id"))
        if call_id in calls:
            raise bad(f"{at}.id", call_id, "two calls have this id.")
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):  # as some templates and servers have it
            arguments = json.dumps(mapping(f"{at}.function.arguments", arguments))
        fields = {
            "name": string(f"{at}.function.name", function["name"]),
            "arguments": string(f"{at}.function.arguments", "" if arguments is None else arguments),
        }
        calls[call_id] = {"id": call_id, "type": "function", "function": fields}
        size += len(fields["arguments"])
        if size > LIMITS.prompt_bytes:
            raise _too_large(param, value)
    return list(calls.values())

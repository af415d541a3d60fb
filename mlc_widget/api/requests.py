"""Checks on requests, before any work starts.

Each request is a plain dict in OpenAI's shape. `check_chat`, `check_completion` and
`check_embedding` return a new dict with only what the caller gave (None means not given), or raise
`BadRequestError` with the field as `param` and the value in the message.

Limits follow OpenAI's API reference (temperature 0 to 2, penalties -2 to 2, at most 4 stop strings
…) or, where OpenAI has none, `Limits`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError

JSONDict: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps that keep one request from exhausting the worker."""

    prompt_bytes: int = 4 * 1024 * 1024
    messages: int = 4096
    stop_strings: int = 16
    stop_bytes: int = 1024
    choices: int = 16
    logit_bias: int = 4096
    embedding_inputs: int = 2048
    schema_depth: int = 32
    schema_bytes: int = 256 * 1024
    tools: int = 128


LIMITS: Final = Limits()
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def _bad(param: str, value: Any, remedy: str) -> BadRequestError:
    shown = repr(value)
    if len(shown) > 120:
        shown = f"{shown[:117]}…"
    return BadRequestError(f"{param} = {shown}: {remedy}", param=param)


def _number(low: float, high: float, *, open_low: bool = False) -> Check:
    def check(param: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _bad(param, value, "give a number.")
        if not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
            span = f"greater than {low:g} and at most" if open_low else f"between {low:g} and"
            raise _bad(param, value, f"give a number {span} {high:g}.")
        return float(value)

    return check


def _integer(low: int, high: int) -> Check:
    def check(param: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _bad(param, value, "give an integer.")
        if not low <= value <= high:
            raise _bad(param, value, f"give an integer between {low} and {high}.")
        return value

    return check


def _boolean(param: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(param, value, "give True or False.")
    return value


def _string(param: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _bad(param, value, "give a string.")
    return value


def _identifier(param: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 512:
        raise _bad(param, value, "give a string of 1 to 512 characters.")
    return value


def _stop(param: str, value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(s, str) for s in stops):
        raise _bad(param, value, "give a string or a list of strings.")
    if len(stops) > LIMITS.stop_strings:
        raise _bad(param, value, f"give at most {LIMITS.stop_strings} stop strings.")
    for i, stop in enumerate(stops):
        if not 0 < len(stop.encode("utf-8", "surrogatepass")) <= LIMITS.stop_bytes:
            raise _bad(f"{param}[{i}]", stop, f"give 1 to {LIMITS.stop_bytes} bytes.")
    return list(stops)


def _logit_bias(param: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise _bad(param, value, "give a mapping from token id to a bias.")
    if len(value) > LIMITS.logit_bias:
        raise _bad(param, len(value), f"give at most {LIMITS.logit_bias} entries.")
    checked: dict[int, float] = {}
    bias = _number(-100, 100)
    for key, amount in value.items():
        text = str(key)
        if isinstance(key, bool) or not text.isascii() or not text.isdigit():
            raise _bad(param, key, "keys are token ids: integers, 0 or greater.")
        checked[int(text)] = bias(f"{param}[{key}]", amount)
    return checked


def _stream_options(param: str, value: Any) -> JSONDict:
    if not isinstance(value, Mapping):
        raise _bad(param, value, 'give a mapping such as {"include_usage": True}.')
    _known(param, value, ("include_usage", "include_obfuscation"))
    return {k: _boolean(f"{param}.{k}", v) for k, v in value.items() if v is not None}


def _mapping(param: str, value: Any) -> JSONDict:
    if not isinstance(value, Mapping):
        raise _bad(param, value, "give a mapping.")
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad(param, type(value).__name__, f"give plain JSON values ({error}).") from None
    if len(text) > LIMITS.schema_bytes:
        raise _bad(param, f"{len(text)} bytes", f"give at most {LIMITS.schema_bytes} bytes.")
    if _depth(value) > LIMITS.schema_depth:
        raise _bad(param, value, f"nest at most {LIMITS.schema_depth} levels.")
    return dict(value)


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, Mapping | list | tuple):
            deepest = max(deepest, depth)
            children = node.values() if isinstance(node, Mapping) else node
            stack.extend((child, depth + 1) for child in children)
    return deepest


def _response_format(param: str, value: Any) -> JSONDict:
    checked = _mapping(param, value)
    kinds = ("text", "json_object", "json_schema", "regex", "grammar", "structural_tag")
    if checked.get("type") not in kinds:
        raise _bad(f"{param}.type", checked.get("type"), f"give one of {', '.join(kinds)}.")
    return checked


def _tools(param: str, value: Any) -> list[JSONDict]:
    if not isinstance(value, list | tuple) or len(value) > LIMITS.tools:
        raise _bad(param, value, f"give a list of at most {LIMITS.tools} tools.")
    tools = []
    for i, tool in enumerate(value):
        at = f"{param}[{i}]"
        checked = _mapping(at, tool)
        if checked.get("type") != "function" or not isinstance(checked.get("function"), Mapping):
            raise _bad(at, tool, 'give {"type": "function", "function": {"name": …}}.')
        _identifier(f"{at}.function.name", checked["function"].get("name"))
        tools.append(checked)
    return tools


def _tool_choice(param: str, value: Any) -> Any:
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        _identifier(f"{param}.function.name", value["function"].get("name"))
        return dict(value)
    raise _bad(param, value, "give none, auto, required, or a function by name.")


def _content(param: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        texts = []
        for i, part in enumerate(value):
            if not isinstance(part, Mapping) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise _bad(f"{param}[{i}].type", kind, "only text parts are supported.")
            texts.append(_string(f"{param}[{i}].text", part.get("text")))
        return "".join(texts)
    raise _bad(param, value, "give a string, or a list of text parts.")


def _messages(param: str, value: Any) -> list[JSONDict]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise _bad(param, value, 'give a list such as [{"role": "user", "content": "Hello"}].')
    if not value:
        raise _bad(param, value, "give at least one message.")
    if len(value) > LIMITS.messages:
        raise _bad(param, len(value), f"give at most {LIMITS.messages} messages.")
    checked: list[JSONDict] = []
    size = 0
    for i, message in enumerate(value):
        one = _message(f"{param}[{i}]", message)
        size += len((one.get("content") or "").encode("utf-8", "surrogatepass"))
        checked.append(one)
    if size > LIMITS.prompt_bytes:
        raise _bad(param, f"{size} bytes", f"give at most {LIMITS.prompt_bytes} bytes of text.")
    return checked


def _message(param: str, message: Any) -> JSONDict:
    if hasattr(message, "model_dump"):  # an openai.types message, given back as it came
        message = message.model_dump(exclude_none=True)
    if not isinstance(message, Mapping):
        raise _bad(param, message, 'give a mapping such as {"role": "user", "content": "Hello"}.')
    role = message.get("role")
    if role not in _ROLES:
        raise _bad(f"{param}.role", role, f"give one of {', '.join(_ROLES)}.")
    one: JSONDict = {"role": "system" if role == "developer" else role}
    if role == "assistant" and message.get("tool_calls"):
        one["tool_calls"] = list(message["tool_calls"])
        content = message.get("content")
        one["content"] = None if content is None else _content(f"{param}.content", content)
    else:
        one["content"] = _content(f"{param}.content", message.get("content"))
    if role == "tool":
        one["tool_call_id"] = _identifier(f"{param}.tool_call_id", message.get("tool_call_id"))
    if message.get("name") is not None:
        one["name"] = _identifier(f"{param}.name", message["name"])
    return one


def _prompt(param: str, value: Any) -> str | list[int]:
    if isinstance(value, str):
        if not value:
            raise _bad(param, value, "give at least one character.")
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > LIMITS.prompt_bytes:
            raise _bad(param, f"{size} bytes", f"give at most {LIMITS.prompt_bytes} bytes.")
        return value
    return _token_ids(param, value)


def _token_ids(param: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple) or not value:
        raise _bad(param, value, "give a string or a list of token ids.")
    if len(value) * 4 > LIMITS.prompt_bytes:
        raise _bad(param, f"{len(value)} ids", f"give at most {LIMITS.prompt_bytes // 4} ids.")
    token_id = _integer(0, 2**31 - 1)
    return [token_id(f"{param}[{i}]", v) for i, v in enumerate(value)]


def _embedding_input(param: str, value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [_prompt(param, value)]
    if isinstance(value, list | tuple) and value:
        if isinstance(value[0], int):
            return [_token_ids(param, value)]
        if len(value) > LIMITS.embedding_inputs:
            raise _bad(param, len(value), f"give at most {LIMITS.embedding_inputs} inputs.")
        return [_prompt(f"{param}[{i}]", v) for i, v in enumerate(value)]
    raise _bad(param, value, "give a string, a list of strings, or token ids.")


def _one_of(*choices: str) -> Check:
    def check(param: str, value: Any) -> str:
        if value not in choices:
            raise _bad(param, value, f"give one of {', '.join(choices)}.")
        return str(value)

    return check


_COMMON: Final[dict[str, Check]] = {
    "model": _identifier,
    "stream": _boolean,
    "stream_options": _stream_options,
    "n": _integer(1, LIMITS.choices),
    "max_tokens": _integer(1, 2**31 - 1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, open_low=True),
    "seed": _integer(0, 2**63 - 1),
    "stop": _stop,
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 10, open_low=True),
    "logit_bias": _logit_bias,
    "response_format": _response_format,
    "ignore_eos": _boolean,
    "enable_latency_breakdown": _boolean,
    "request_id": _identifier,
    "user": _string,
}
CHAT_FIELDS: Final[Mapping[str, Check]] = {
    **_COMMON,
    "messages": _messages,
    "max_completion_tokens": _integer(1, 2**31 - 1),
    "logprobs": _boolean,
    "top_logprobs": _integer(0, 20),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _boolean,
    "enable_thinking": _boolean,
}
COMPLETION_FIELDS: Final[Mapping[str, Check]] = {
    **_COMMON,
    "prompt": _prompt,
    "logprobs": _integer(0, 20),
    "echo": _boolean,
}
EMBEDDING_FIELDS: Final[Mapping[str, Check]] = {
    "input": _embedding_input,
    "model": _identifier,
    "dimensions": _integer(1, 2**20),
    "encoding_format": _one_of("float", "base64"),
    "request_id": _identifier,
    "user": _string,
}


def _known(
    where: str, request: Mapping[str, Any], fields: Sequence[str] | Mapping[str, Any]
) -> None:
    unknown = [name for name in request if name not in fields]
    if unknown:
        param = f"{where}.{unknown[0]}" if where else str(unknown[0])
        raise _bad(
            param, request[unknown[0]], f"no such field; known: {', '.join(sorted(fields))}."
        )


def _check(request: Mapping[str, Any], fields: Mapping[str, Check], required: str) -> JSONDict:
    flat = dict(request)
    extra = flat.pop("extra_body", None)
    if extra is not None:  # where OpenAI's client puts what is not OpenAI's
        flat.update(_mapping("extra_body", extra))
    given = {name: value for name, value in flat.items() if value is not None}
    _known("", given, fields)
    if required not in given:
        raise BadRequestError(f"{required}: this field is required.", param=required)
    return {name: fields[name](name, value) for name, value in given.items()}


def check_chat(request: Mapping[str, Any]) -> JSONDict:
    """Check a chat completion request.

    Raises:
        BadRequestError: naming the field and the value.
    """
    checked = _check(request, CHAT_FIELDS, "messages")
    if "max_completion_tokens" in checked:
        if "max_tokens" in checked:
            raise _bad("max_tokens", checked["max_tokens"], "give it or max_completion_tokens.")
        checked["max_tokens"] = checked.pop("max_completion_tokens")
    if checked.get("top_logprobs") and not checked.get("logprobs"):
        raise _bad("top_logprobs", checked["top_logprobs"], "it needs logprobs=True.")
    roles = [m["role"] for m in checked["messages"]]
    for i, role in enumerate(roles[1:], 1):
        if role == "system":
            raise _bad(f"messages[{i}].role", role, "a system message must be the first message.")
    if roles[-1] == "system":
        raise _bad("messages", roles, "give a user message after the system message.")
    if roles[-1] == "assistant":
        raise _bad("messages", roles, "the last message must be from the user or a tool.")
    if checked.get("tool_choice") not in (None, "none", "auto") and not checked.get("tools"):
        raise _bad("tool_choice", checked["tool_choice"], "it needs tools.")
    _check_stream_options(checked)
    return checked


def check_completion(request: Mapping[str, Any]) -> JSONDict:
    """Check a text completion request.

    Raises:
        BadRequestError: naming the field and the value.
    """
    checked = _check(request, COMPLETION_FIELDS, "prompt")
    _check_stream_options(checked)
    return checked


def check_embedding(request: Mapping[str, Any]) -> JSONDict:
    """Check an embedding request.

    Raises:
        BadRequestError: naming the field and the value.
    """
    return _check(request, EMBEDDING_FIELDS, "input")


def _check_stream_options(checked: Mapping[str, Any]) -> None:
    if checked.get("stream_options") and not checked.get("stream"):
        raise _bad("stream_options", checked["stream_options"], "it needs stream=True.")

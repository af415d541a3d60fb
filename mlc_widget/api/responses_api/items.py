"""From input items of the Responses API to the messages of a chat."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.api.json_size import TooLargeError, check_json_size
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_values import JSONDict, bad, identifier, mapping, string

_TEXT_PARTS: Final = ("input_text", "output_text", "text")
_ROLES: Final = ("user", "assistant", "system", "developer")


def new_id(prefix: str) -> str:
    """An id such as OpenAI gives: ``resp_…``, ``msg_…``, ``fc_…``, ``rs_…``."""
    return f"{prefix}_{uuid.uuid4().hex}"


def input_items(param: str, value: Any) -> list[JSONDict]:
    """Check ``input``, a text or items, and give every item its id.

    Raises:
        BadRequestError: An item is invalid; the message names it and the field.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": string(param, value)}]
    if not isinstance(value, list | tuple) or not value:
        raise bad(param, value, "give a text, or a list of input items.")
    if len(value) > LIMITS.messages:
        raise bad(param, len(value), f"give at most {LIMITS.messages} items.")
    try:  # the same item may occur many times
        check_json_size(value, LIMITS.input_bytes)
    except TooLargeError:
        raise bad(
            param, value, f"it is too large; give at most {LIMITS.input_bytes} bytes."
        ) from None
    return [_item(f"{param}[{i}]", item) for i, item in enumerate(value)]


def _item(param: str, value: Any) -> JSONDict:
    item = mapping(param, value)
    kind = item.get("type") or ("message" if "role" in item else None)
    if not isinstance(kind, str) or kind not in _CHECKS:
        raise UnsupportedFieldError(
            f"{param}.type = {kind!r}: give one of {', '.join(_CHECKS)}.", param=f"{param}.type"
        )
    checked = {"type": kind, **_CHECKS[kind](param, item)}
    given = item.get("id")
    prefix = _PREFIXES[kind]
    checked["id"] = new_id(prefix) if given is None else identifier(f"{param}.id", given)
    return checked


def _message(param: str, item: JSONDict) -> JSONDict:
    role = item.get("role")
    if role not in _ROLES:
        raise bad(f"{param}.role", role, f"give one of {', '.join(_ROLES)}.")
    kind = "output_text" if role == "assistant" else "input_text"
    return {
        "role": role,
        "status": "completed",
        "content": _parts(f"{param}.content", item.get("content"), kind),
    }


def _parts(param: str, value: Any, kind: str) -> list[JSONDict]:
    """A content's text parts, in one shape."""
    if isinstance(value, str):
        value = [{"type": kind, "text": value}]
    if not isinstance(value, list | tuple) or not value:
        raise bad(param, value, "give a text, or a list of text parts.")
    parts: list[JSONDict] = []
    for i, part in enumerate(value):
        at = f"{param}[{i}]"
        found = part.get("type") if isinstance(part, Mapping) else part
        if found == "refusal":
            parts.append({"type": kind, "text": string(f"{at}.refusal", part.get("refusal"))})
        elif found in _TEXT_PARTS:
            parts.append({"type": kind, "text": string(f"{at}.text", part.get("text"))})
        else:
            raise bad(f"{at}.type", found, "only text parts are supported.")
    if kind == "output_text":
        parts = [{**part, "annotations": []} for part in parts]
    return parts


def _call(param: str, item: JSONDict) -> JSONDict:
    return {
        "call_id": identifier(f"{param}.call_id", item.get("call_id")),
        "name": identifier(f"{param}.name", item.get("name")),
        "arguments": string(f"{param}.arguments", item.get("arguments")),
        "status": "completed",
    }


def _output(param: str, item: JSONDict) -> JSONDict:
    output = item.get("output")
    if not isinstance(output, str):
        _parts(f"{param}.output", output, "input_text")
    return {
        "call_id": identifier(f"{param}.call_id", item.get("call_id")),
        "output": output,
        "status": "completed",
    }


def _reasoning(param: str, item: JSONDict) -> JSONDict:
    """Accept earlier reasoning; as in chats, it is not shown to the model again."""
    return {"summary": item.get("summary") or [], "content": item.get("content") or []}


_CHECKS: Final = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning,
}
_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def messages(items: Sequence[JSONDict]) -> list[JSONDict]:
    """Checked items as a chat's messages; the calls of one turn become one message."""
    said: list[JSONDict] = []
    for item in items:
        kind = item["type"]
        if kind == "message":
            said.append({"role": item["role"], "content": _text(item["content"])})
        elif kind == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            if not said or said[-1]["role"] != "assistant":
                said.append({"role": "assistant", "content": None})
            said[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else _text(output)
            said.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
    return said


def _text(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part.get("text", part.get("refusal", "")) for part in parts)

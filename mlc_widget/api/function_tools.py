"""Python functions as tools: their descriptions for the model, and their calls."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, Union

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import shortened
from mlc_widget.api.requests import CHAT_FIELDS, JSONDict

Tools: TypeAlias = Sequence[Mapping[str, Any] | Callable[..., Any]] | Mapping[str, Any]
"""OpenAI's tools, functions, or functions by their names."""

MAX_CALL_TURNS: Final = 8
"""Replies in a row whose calls are answered by functions."""

_TYPES: Final[dict[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
    tuple: "array",
    type(None): "null",
}
_ARGUMENT: Final = re.compile(r"^\s*(\w+)(?:\s*\([^)]*\))?:\s+(\S.*)$", re.MULTILINE)


class FunctionTool(dict[str, Any]):
    """A tool in OpenAI's shape, with the function that implements it."""

    def __init__(self, tool: Mapping[str, Any], function: Callable[..., Any]) -> None:
        super().__init__(tool)
        self.call = function


def read_tools(tools: Any) -> list[JSONDict] | None:
    """Check tools; functions become `FunctionTool`s.

    Raises:
        BadRequestError: A tool is invalid; the message names it and the fault.
    """
    if isinstance(tools, Mapping):
        tools = [_as_tool(function, name) for name, function in tools.items()]
    elif isinstance(tools, Sequence) and not isinstance(tools, str):
        tools = [_as_tool(one, "") if callable(one) else one for one in tools]
    checked: list[JSONDict] | None = CHAT_FIELDS["tools"]("tools", tools)
    return checked and [
        FunctionTool(tool, given.call) if isinstance(given, FunctionTool) else tool
        for tool, given in zip(checked, tools, strict=True)
    ]


def functions_of(tools: Sequence[JSONDict] | None) -> dict[str, Callable[..., Any]]:
    """The functions among the tools, by name."""
    return {t["function"]["name"]: t.call for t in tools or () if isinstance(t, FunctionTool)}


def begin_call(functions: Mapping[str, Callable[..., Any]], call: Mapping[str, Any]) -> Any:
    """Make one call as the model wrote it; returns an awaitable of a coroutine function.

    Raises:
        Exception: Whatever the function raises, or what is wrong with the call.
    """
    function = call["function"]
    return functions[function["name"]](**json.loads(function["arguments"] or "{}"))


async def call_function(
    functions: Mapping[str, Callable[..., Any]], call: Mapping[str, Any]
) -> str:
    """Make one call as the model wrote it; an exception becomes the text of its result."""
    try:
        result = begin_call(functions, call)
        if inspect.isawaitable(result):
            result = await result
        return result_text(result)
    except Exception as error:
        return error_text(error)


def error_text(error: BaseException) -> str:
    """An exception of a function as text for the model."""
    return f"Error: {type(error).__name__}: {error}"


def result_text(result: Any) -> str:
    """A result as text for the model: a string as it is, anything else as JSON or by `str`."""
    return (
        result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)
    )


def _as_tool(function: Any, name: str) -> FunctionTool:
    if not callable(function):
        where = f"tools[{shortened(name)}]"
        raise BadRequestError(f"{where} = {shortened(function)}: not a function.", param="tools")
    name = name or getattr(function, "__name__", "")
    text = inspect.getdoc(function) or ""
    described: JSONDict = {"name": name, "parameters": _parameters(function, name, text)}
    if summary := " ".join(text.partition("\n\n")[0].split()):
        described["description"] = summary
    return FunctionTool({"type": "function", "function": described}, function)


def _parameters(function: Callable[..., Any], name: str, text: str) -> JSONDict:
    """The JSON schema of a function's arguments, from its annotations and docstring."""
    described = dict(_ARGUMENT.findall(text.partition("Args:")[2]))
    hints = _hints(function)
    properties: JSONDict = {}
    required: list[str] = []
    try:
        signature = inspect.signature(function)
    except Exception as error:  # many of Python's own functions and types have none
        raise BadRequestError(
            f"tools: {name}: its arguments cannot be read ({error}); wrap it in a function of "
            "your own.",
            param="tools",
        ) from None
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadRequestError(
                f"tools: {name}({parameter}): a model gives arguments by name only; "
                "wrap the function in one that takes named arguments.",
                param="tools",
            )
        schema = _schema(hints.get(parameter.name))
        if parameter.name in described:
            schema["description"] = described[parameter.name]
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's arguments, as far as its annotations are types."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may be any text, or an expression that fails
        with contextlib.suppress(Exception):
            given = function.__annotations__
            return {name: hint for name, hint in given.items() if not isinstance(hint, str)}
        return {}


def _schema(hint: Any) -> JSONDict:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _schema(inner[0])
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one) for one in inner]}
    plain = origin or hint
    if plain in (list, Sequence, tuple) and len(inner) == 1:
        return {"type": "array", "items": _schema(inner[0])}
    return {"type": _TYPES[plain]} if isinstance(plain, type) and plain in _TYPES else {}

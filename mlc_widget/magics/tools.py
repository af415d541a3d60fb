"""The flag ``--tools``: names of variables that the model may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.error import UsageError


def named_tools(names: Sequence[str], namespace: Mapping[str, Any]) -> list[Any]:
    """The tools that variables hold: functions, or tools in OpenAI's shape.

    Raises:
        UsageError: There is no such variable.
        BadRequestError: A function cannot be a tool.
    """
    return [tool for name in names for tool in _tools_of(name, namespace)]


def _tools_of(name: str, namespace: Mapping[str, Any]) -> Sequence[Any]:
    from mlc_widget.api.function_tools import read_tools

    if name not in namespace:
        raise UsageError(f"--tools {name}: no variable has that name.")
    value = namespace[name]
    if callable(value):
        return read_tools({name: value}) or ()
    return value if isinstance(value, list | tuple) else [value]

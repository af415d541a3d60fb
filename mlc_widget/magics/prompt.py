"""Variables in prompts: ``{name}`` becomes the value, as a text that a model can read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from IPython.core.error import UsageError

from mlc_widget.magics.describe import describe

_FIELD: Final = re.compile(
    r"\{(?P<name>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]{}]+\])*)(?::(?P<spec>[^\s{}][^{}]*))?\}"
)
_STEP: Final = re.compile(r"\.(?P<attribute>\w+)|\[(?P<item>[^\]]+)\]")


def fill_in(text: str, namespace: Mapping[str, Any]) -> str:
    """Replace each ``{name}``, ``{name.attribute}``, ``{name[key]}`` and ``{name:format}``.

    Other braces, as in JSON and in code, stay as they are; ``{{`` and the ``}}`` that ends it are
    single braces.

    Raises:
        UsageError: a variable does not exist; the message names it, and says how to write a brace.
    """
    return "".join(
        part if isinstance(part, str) else _value(part, namespace) for part in _parts(text)
    )


def whole_variables(text: str) -> list[str]:
    """The variables that a text has as they are, without a step into them or a format."""
    fields = [part for part in _parts(text) if not isinstance(part, str)]
    return [field["name"] for field in fields if not field["path"] and field["spec"] is None]


def _parts(text: str) -> Iterator[str | re.Match[str]]:
    """The text's own characters, and its fields."""
    at = opened = 0
    while at < len(text):
        if text.startswith("{{", at):
            yield "{"
            opened += 1
            at += 2
        elif opened and text.startswith("}}", at):
            yield "}"
            opened -= 1
            at += 2
        elif field := _FIELD.match(text, at):
            yield field
            at = field.end()
        else:
            yield text[at]
            at += 1


def _value(field: re.Match[str], namespace: Mapping[str, Any]) -> str:
    name = field["name"]
    if name not in namespace:
        raise UsageError(
            f"{field.group()}: this notebook has no variable {name!r}. Define it, or write "
            f"{{{field.group()}}} for the braces themselves."
        )
    value = namespace[name]
    try:
        for step in _STEP.finditer(field["path"]):
            value = _step(value, step)
        return describe(value) if field["spec"] is None else format(value, field["spec"])
    except Exception as error:  # the user's own attributes and formats may raise anything
        raise UsageError(f"{field.group()}: {type(error).__name__}: {error}") from error


def _step(value: Any, step: re.Match[str]) -> Any:
    if step["attribute"] is not None:
        return getattr(value, step["attribute"])
    key = step["item"].strip()
    if re.fullmatch(r"-?\d+", key):
        return value[int(key)]
    return value[key.strip("'\"")]

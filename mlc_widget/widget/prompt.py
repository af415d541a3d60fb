"""Variables in prompts: ``{name}`` becomes the value, as a text that a model can read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.widget.describe import describe

_PATTERN: Final = (
    r"\{(?P<name>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]{}]+\])*)"
    r"(?::(?P<spec>[^\s{}][^{}]*))?\}"
)
_FIELD: Final = re.compile(_PATTERN)
_STEP: Final = re.compile(r"\.(?P<attribute>\w+)|\[(?P<item>[^\]]+)\]")
# Code, quotations, and LaTeX such as \frac{x}{y}, have braces of their own.
_IN_CHAT: Final = re.compile(
    r"(?P<code>^ {0,3}>[^\n]*|(?P<fence>`{3,}).*?(?:(?P=fence)|\Z)|`[^`\n]+`)"
    r"|(?<![\w\\$^{}])(?P<open>\{?)" + _PATTERN + r"(?P<close>\}?)",
    re.DOTALL | re.MULTILINE,
)


def fill_in(text: str, namespace: Mapping[str, Any]) -> str:
    """Replace each ``{name}``, ``{name.attribute}``, ``{name[key]}`` and ``{name:format}``.

    Other braces, as in JSON and in code, stay as they are; ``{{`` and the ``}}`` that ends it are
    single braces.

    Raises:
        BadRequestError: a variable does not exist; the message names it, and says how to write a
            brace.
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


@dataclass(frozen=True, slots=True)
class Filled:
    """A message with its variables filled in.

    Attributes:
        text: The message as the model reads it.
        values: What was filled in, by what stood in its place, such as ``df`` or ``df.columns``.
    """

    text: str
    values: Mapping[str, str]


def names_variables(text: str) -> bool:
    """Whether `fill_in_known` may have something to fill in."""
    return any(found["code"] is None for found in _IN_CHAT.finditer(text))


def fill_in_known(text: str, namespace: Mapping[str, Any]) -> Filled:
    """Replace the fields of `fill_in`, but only those of variables that exist.

    A message may contain anything, so all other text stays as it is: unknown names, code between
    backticks, and braces after a word, a backslash or another brace, as in LaTeX and f-strings.
    ``{{name}}`` is ``{name}`` if the variable exists.

    Raises:
        BadRequestError: a variable exists, but not what is wanted of it.
    """
    values: dict[str, str] = {}

    def replaced(found: re.Match[str]) -> str:
        doubled = bool(found["open"] and found["close"])
        whole = found.group()
        if found["code"] is not None or found["name"] not in namespace:
            return whole
        if found["open"] or found["close"]:
            return whole[1:-1] if doubled else whole
        value = _value(found, namespace)
        values[whole[1:-1]] = value
        return value

    return Filled(_IN_CHAT.sub(replaced, text), values)


def _value(field: re.Match[str], namespace: Mapping[str, Any]) -> str:
    name = field["name"]
    if name not in namespace:
        raise BadRequestError(
            f"{field.group()}: this notebook has no variable {name!r}. Define it, or write "
            f"{{{field.group()}}} for the braces themselves."
        )
    value = namespace[name]
    try:
        for step in _STEP.finditer(field["path"]):
            value = _step(value, step)
        return describe(value) if field["spec"] is None else format(value, field["spec"])
    except Exception as error:  # the user's own attributes and formats may raise anything
        raise BadRequestError(f"{field.group()}: {type(error).__name__}: {error}") from error


def _step(value: Any, step: re.Match[str]) -> Any:
    if step["attribute"] is not None:
        return getattr(value, step["attribute"])
    key = step["item"].strip()
    if re.fullmatch(r"-?\d+", key):
        return value[int(key)]
    return value[key.strip("'\"")]

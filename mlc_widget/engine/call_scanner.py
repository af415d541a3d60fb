"""Reads one call of a tool, as JSON, while it arrives."""

from __future__ import annotations

import json
from collections.abc import Collection

from mlc_widget.api.unicode_text import well_formed


class CallScanner:
    """Reads one JSON object ``{"name": …, "arguments": …}`` as it arrives.

    Attributes:
        name: The tool's name, once it is known.
        keys: The object's keys so far.
        done: Whether the object has ended.
        failed: Whether the text is not such an object.
    """

    def __init__(self, arguments_keys: Collection[str] = ("arguments", "parameters")) -> None:
        self._keys = arguments_keys
        self._state = "open"
        self._key = self._value = ""
        self._depth = 0
        self._quoted = self._escaped = False
        self._given = 0
        self._arguments: str | None = None
        self._arguments_end = False
        self.name: str | None = None
        self.keys: list[str] = []
        self.done = self.failed = False

    def push(self, text: str) -> int:
        """Read until the object ends; return the number of characters that were read."""
        for at, char in enumerate(text):
            if self.done or self.failed:
                return at
            self._read(char)
        return len(text)

    def take(self) -> str:
        """Return new text of the arguments' JSON; "" while the name is not known."""
        text = self._arguments
        if self.name is None:
            return ""
        if text is None:
            # A call without arguments.
            text = "{}" if self.done else ""
        elif text.startswith('"'):  # JSON within a string
            text = _unquoted(text) if self._arguments_end else ""
        more = text[self._given :]
        self._given = max(self._given, len(text))
        return more

    def _read(self, char: str) -> None:
        space = char.isspace()
        match self._state:
            case "open" if char == "{":
                self._state = "key"
            case "key" | "value" if char == '"' or (self._state == "value" and not space):
                self._value, self._state = "", "in " + self._state
                self._depth, self._quoted = 0, False
                self._inside(char)
            case "key" if char == "}":
                self._end()
            case "in key" | "in value":
                self._inside(char)
            case "colon" if char == ":":
                self._state = "value"
            case "comma" if char == ",":
                self._state = "key"
            case "comma" if char == "}":
                self._end()
            case _ if not space:
                self.failed = True

    def _inside(self, char: str) -> None:
        """A character of a string, or of a value."""
        if self._quoted:
            self._take(char)
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._quoted = False
                self._maybe_whole()
        elif char == '"':
            self._quoted = True
            self._take(char)
        elif char in "[{":
            self._depth += 1
            self._take(char)
        elif char in "]}" and self._depth:
            self._depth -= 1
            self._take(char)
            self._maybe_whole()
        elif not self._depth and (char in ",}" or char.isspace()):  # after a number or a word
            self._whole()
            self._read(char)
        else:
            self._take(char)

    def _take(self, char: str) -> None:
        self._value += char
        if self._state == "in value" and self._key in self._keys:
            self._arguments = (self._arguments or "") + char

    def _maybe_whole(self) -> None:
        if not self._depth:
            self._whole()

    def _whole(self) -> None:
        try:
            value = json.loads(self._value)
        except ValueError:
            # Invalid JSON is passed on in arguments, but not accepted in a key or a name.
            if self._key not in self._keys or self._state == "in key":
                self.failed = True
                return
            value = None
        if self._state == "in key":
            self._key, self._state = value, "colon"
            self.keys.append(value)
            return
        if self._key == "name":
            if not isinstance(value, str) or not value:
                self.failed = True
            self.name = well_formed(value) if isinstance(value, str) else value
        elif self._key in self._keys:
            self._arguments_end = True
        self._state = "comma"

    def _end(self) -> None:
        self.done = True
        self.failed = self.name is None


def _unquoted(text: str) -> str:
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return well_formed(inner) if isinstance(inner, str) else text

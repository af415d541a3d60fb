"""Finds calls of tools in a model's text as it arrives."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from mlc_widget.engine.tool_formats import ToolFormat


@dataclass(frozen=True, slots=True)
class CallDelta:
    """An addition to one call.

    Attributes:
        index: The index of the call in the answer.
        name: The tool's name, in the first addition only.
        arguments: An addition to the arguments' JSON text.
    """

    index: int
    name: str | None
    arguments: str


class CallScanner:
    """Reads one JSON object ``{"name": …, "arguments": …}`` as it arrives.

    Attributes:
        name: The tool's name, once it is known.
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
            return
        if self._key == "name":
            if not isinstance(value, str) or not value:
                self.failed = True
            self.name = _well_formed(value) if isinstance(value, str) else value
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
    return _well_formed(inner) if isinstance(inner, str) else text


def _well_formed(text: str) -> str:
    """The text without lone surrogates, which JSON can escape but UTF-8 cannot represent."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class ToolCallParser:
    """Splits a text, as it arrives, into content and calls.

    Line breaks next to a call are dropped from the content. Text that looks like a call but turns
    out not to be one is content.

    Attributes:
        count: The number of calls so far.
        broken: Whether the text ended before a call was complete.
    """

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        """Look for calls of these tools in this format.

        If calls are bare JSON objects, only an object at the beginning of the answer that names
        one of the tools is a call.
        """
        self._begin, self._end = format.begin.strip(), format.end.strip()
        self._names = names
        self._held = ""  # text that may be the beginning of a mark, or breaks before one
        self._raw = ""  # the call's text so far, in case it is not one
        self._scanner: CallScanner | None = None
        self._named = False
        self._text_began = False
        self.count = 0
        self.broken = False

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Take more text; return what is now certain: content, and additions to calls."""
        content = ""
        deltas: list[CallDelta] = []
        while text:
            if self._scanner is None:
                more, text = self._outside(text)
                content += more
            else:
                more, text = self._inside(text, deltas)
                content += more
        return content, deltas

    def flush(self) -> tuple[str, list[CallDelta]]:
        """Return the rest; no more text will come."""
        if self._scanner is not None:
            self.broken = self.broken or (self._named and not self._scanner.done)
            text, self._raw, self._scanner, self._held = self._raw, "", None, ""
            return "" if self._named else text, []
        held, self._held = self._held, ""
        return (held.rstrip() if self.count else held), []

    def _outside(self, text: str) -> tuple[str, str]:
        """Split text into content and what follows a call's opening mark."""
        text, self._held = self._held + text, ""
        if not self._begin:
            return self._outside_bare(text)
        before, mark, after = text.partition(self._begin)
        if mark:
            self._open(mark)
            return self._content(before.rstrip()), after
        keep = _undecided(text, self._begin)
        certain = text[: len(text) - keep]
        certain = certain[: len(certain.rstrip())] if keep else certain.rstrip()
        self._held = text[len(certain) :]
        return self._content(certain), ""

    def _outside_bare(self, text: str) -> tuple[str, str]:
        bare = text.lstrip(" \n;" if self.count else None)
        if not self._text_began and bare.startswith("{"):
            self._open("")
            return "", bare
        if not bare:
            self._held = text
            return "", ""
        return self._content(text), ""

    def _content(self, text: str) -> str:
        if self.count and not self._text_began:
            text = text.lstrip()
        self._text_began = self._text_began or bool(text)
        return text

    def _open(self, mark: str) -> None:
        self._scanner, self._raw, self._named = CallScanner(), mark, False
        self._text_began = self._text_began and bool(self._begin)

    def _inside(self, text: str, deltas: list[CallDelta]) -> tuple[str, str]:
        """Read on in a call; return content if it was not a call, and the rest of the text."""
        scanner = self._scanner
        assert scanner is not None
        read = scanner.push(text)
        self._raw += text[:read]
        rest = text[read:]
        if not self._named and scanner.name is not None and not self._begin:
            scanner.failed = scanner.failed or scanner.name not in self._names
        if scanner.failed and not self._named:
            content, self._raw, self._scanner = self._raw, "", None
            self._text_began = True
            return content, rest
        arguments = scanner.take()
        if scanner.name is not None and (arguments or not self._named):
            name = None if self._named else scanner.name
            if name is not None:
                self.count += 1
                self._named = True
            deltas.append(CallDelta(self.count - 1, name, arguments))
        if scanner.done or scanner.failed:
            self.broken = self.broken or scanner.failed
            return self._after(rest)
        return "", rest

    def _after(self, rest: str) -> tuple[str, str]:
        """Skip the text that closes a call."""
        if not self._end:
            self._scanner, self._text_began = None, False
            return "", rest
        self._held += rest
        _, mark, after = self._held.partition(self._end)
        if not mark:
            return "", ""
        self._scanner, self._held, self._text_began = None, "", False
        return "", after


def _undecided(text: str, mark: str) -> int:
    """The length of the longest end of `text` that is the beginning of `mark`."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-n:]):
            return n
    return 0

"""Finds calls of tools in a model's text as it arrives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlc_widget.engine.call_scanner import CallScanner
from mlc_widget.engine.tool_formats import ToolFormat
from mlc_widget.engine.untagged_call import UntaggedCall


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


class ToolCallParser:
    """Splits a text, as it arrives, into content and calls.

    Line breaks next to a call are dropped from the content. Text that looks like a call but turns
    out not to be one is content.

    Attributes:
        count: The number of calls so far.
        broken: Whether the text ended before a call was complete.
    """

    def __init__(
        self, format: ToolFormat, names: Collection[str], *, untagged: bool = True
    ) -> None:
        """Look for calls of these tools in this format.

        If calls are bare JSON objects, only an object at the beginning of the answer that names
        one of the tools is a call. An answer that is one such object is a call in all formats,
        if `untagged`.
        """
        self._begin, self._end = format.begin.strip(), format.end.strip()
        self._names = names
        self._held = ""  # text that may be the beginning of a mark, or breaks before one
        self._raw = ""  # the call's text so far, in case it is not one
        self._scanner: CallScanner | None = None
        self._named = False
        self._text_began = False
        self._untagged = UntaggedCall(names, self._end) if untagged and self._begin else None
        self.count = 0
        self.broken = False

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Take more text; return what is now certain: content, and additions to calls."""
        content = ""
        deltas: list[CallDelta] = []
        if self._untagged is not None and self._untagged.possible:
            text = self._untagged.push(text)
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
        if self._untagged is not None and self._untagged.possible:
            text, call = self._untagged.flush()
            if call is not None:
                self.count += 1
                return "", [CallDelta(0, *call)]
            content, deltas = self.push(text)
            rest, more = self.flush()
            return content + rest, deltas + more
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

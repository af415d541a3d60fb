"""One choice's text, as it comes, parted into what OpenAI's message has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.reasoning import ReasoningParser
from mlc_widget.engine.tool_parser import CallDelta, ToolCallParser


@dataclass(frozen=True, slots=True)
class Delta:
    """More of an answer.

    Attributes:
        content: Text.
        reasoning: What a thinking model thinks.
        tool_calls: Pieces of calls, in OpenAI's shape of a stream.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[JSONDict, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class AnswerParser:
    """Takes one choice's text; without parsers, all of it is content."""

    def __init__(
        self,
        reasoning: ReasoningParser | None = None,
        tools: ToolCallParser | None = None,
        call_key: str = "",
    ) -> None:
        """Take the parsers that apply; the calls' ids depend on `call_key` alone."""
        self._reasoning, self._tools, self._call_key = reasoning, tools, call_key

    @property
    def called(self) -> bool:
        """Whether there were calls, and all of them came to their end."""
        return self._tools is not None and self._tools.count > 0 and not self._tools.broken

    def push(self, text: str, *, last: bool) -> Delta:
        """Take more text, or the last of it."""
        thought = ""
        calls: list[CallDelta] = []
        if self._reasoning is not None:
            thought, text = self._reasoning.push(text)
            if last:
                more, rest = self._reasoning.flush()
                thought, text = thought + more, text + rest
        if self._tools is not None:
            text, calls = self._tools.push(text)
            if last:
                rest, more_calls = self._tools.flush()
                text, calls = text + rest, calls + more_calls
        return Delta(text, thought, tuple(self._shaped(call) for call in calls))

    def _shaped(self, call: CallDelta) -> JSONDict:
        function: JSONDict = {"arguments": call.arguments}
        if call.name is None:
            return {"index": call.index, "function": function}
        digest = hashlib.sha256(f"{self._call_key}/{call.index}".encode()).hexdigest()
        return {
            "index": call.index,
            "id": f"call_{digest[:24]}",
            "type": "function",
            "function": {"name": call.name, **function},
        }

"""Splits the text of a choice, as it arrives, into the fields of OpenAI's message."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.reasoning import ReasoningParser
from mlc_widget.engine.tool_parser import CallDelta, ToolCallParser


@dataclass(frozen=True, slots=True)
class Delta:
    """An addition to an answer.

    Attributes:
        content: Text of the answer.
        reasoning: Text of a thinking model's thoughts.
        tool_calls: Pieces of calls, in OpenAI's shape of a stream.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[JSONDict, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class AnswerParser:
    """Parses the text of one choice; without parsers, all of it is content."""

    def __init__(
        self,
        reasoning: ReasoningParser | None = None,
        tools: ToolCallParser | None = None,
        call_key: str = "",
    ) -> None:
        """Set the parsers to apply; the ids of tool calls depend only on `call_key`."""
        self._reasoning, self._tools, self._call_key = reasoning, tools, call_key

    @property
    def called(self) -> bool:
        """Whether there were tool calls, all of them complete."""
        return self._tools is not None and self._tools.count > 0 and not self._tools.broken

    def push(self, text: str, *, last: bool) -> Delta:
        """Add text; `last` says that no more will come."""
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

"""From the chunks of a chat to the events of a response, in OpenAI's order and shapes."""

from __future__ import annotations

import time
from typing import Any, Final

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.request_values import JSONDict
from mlc_widget.api.responses_api.items import new_id

_ENDS: Final = {"length": "incomplete", "abort": "cancelled"}


class ResponseBuilder:
    """Builds one response as the chunks of its chat come.

    Args:
        response_id: The id of the response.
        model: The model that the request names; chunks name the one that answers.
        echo: The fields of the request that the response repeats.
    """

    def __init__(self, response_id: str, model: str, echo: JSONDict) -> None:
        self.response: JSONDict = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **echo,
        }
        self._sequence = 0
        self._open: list[_Item] = []
        self._calls: dict[int, _CallItem] = {}
        self._finish: str | None = None

    def event(self, kind: str, **fields: Any) -> JSONDict:
        """An event with the next sequence number."""
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _snapshot(self) -> JSONDict:
        return {**self.response, "output": [dict(item) for item in self.response["output"]]}

    def begin(self) -> list[JSONDict]:
        """The events before the first chunk."""
        kinds = ("response.created", "response.in_progress")
        return [self.event(kind, response=self._snapshot()) for kind in kinds]

    def take(self, chunk: JSONDict) -> list[JSONDict]:
        """The events for one chunk."""
        if chunk.get("model"):
            self.response["model"] = chunk["model"]
        if chunk.get("usage"):
            self.response["usage"] = _usage(chunk["usage"])
        events: list[JSONDict] = []
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("reasoning_content"):
                item = self._current(_ReasoningItem, events)
                events += item.add(delta["reasoning_content"], [])
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            if delta.get("content") or (logprobs and self._writes_message(delta)):
                message = self._current(_MessageItem, events)
                events += message.add(delta.get("content") or "", logprobs)
            for call in delta.get("tool_calls") or ():
                events += self._take_call(call)
            self._finish = choice["finish_reason"] or self._finish
        return events

    def _writes_message(self, delta: JSONDict) -> bool:
        """Whether tokens without text belong to a message, whose text may be held back."""
        writing = bool(self._open) and isinstance(self._open[-1], _MessageItem)
        return writing and not (delta.get("tool_calls") or delta.get("reasoning_content"))

    def _current(
        self, kind: type[_MessageItem | _ReasoningItem], events: list[JSONDict]
    ) -> _TextItem:
        if self._open and isinstance(self._open[-1], kind):
            return self._open[-1]
        events += self._close("completed")
        item = kind(self)
        events += self._begin(item)
        return item

    def _take_call(self, call: JSONDict) -> list[JSONDict]:
        events: list[JSONDict] = []
        function = call.get("function") or {}
        item = self._calls.get(call["index"])
        if item is None:
            # The pieces of several calls may alternate, so a new call ends all items but calls.
            events += self._close("completed", but=_CallItem)
            item = _CallItem(self, call.get("id") or new_id("call"), function.get("name") or "")
            self._calls[call["index"]] = item
            events += self._begin(item)
        if function.get("arguments"):
            events += item.add(function["arguments"])
        return events

    def _begin(self, item: _Item) -> list[JSONDict]:
        item.index = len(self.response["output"])
        self.response["output"].append(item.data)
        self._open.append(item)
        return item.begin()

    def _close(self, status: str, but: type[_Item] | None = None) -> list[JSONDict]:
        events: list[JSONDict] = []
        for item in self._open:
            if but is None or not isinstance(item, but):
                events += item.end(status)
        self._open = [i for i in self._open if but is not None and isinstance(i, but)]
        return events

    def end(self) -> list[JSONDict]:
        """The events after the last chunk."""
        status = _ENDS.get(self._finish or "abort", "completed")
        done = "completed" if status == "completed" else "incomplete"
        events: list[JSONDict] = []
        if not self.response["output"]:
            self._current(_MessageItem, events)
        events += self._close(done)
        self.response["status"] = status
        if status == "completed":
            self.response["completed_at"] = int(time.time())
        else:
            reason = "max_output_tokens" if self._finish == "length" else None
            self.response["incomplete_details"] = {"reason": reason}
        return [*events, self.event(f"response.{done}", response=self._snapshot())]

    def fail(self, error: MLCEngineError) -> list[JSONDict]:
        """The last events of a response that an error ends."""
        events = self._close("incomplete")
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error", "message": error.message}
        return [*events, self.event("response.failed", response=self._snapshot())]


def _usage(used: JSONDict) -> JSONDict:
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    thought = (used.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": used["total_tokens"],
    }


class _Item:
    """An output item that is being made."""

    index = 0

    def __init__(self, builder: ResponseBuilder, data: JSONDict) -> None:
        self._builder = builder
        self.data = data

    def _event(self, kind: str, **fields: Any) -> JSONDict:
        where = {"item_id": self.data["id"], "output_index": self.index}
        return self._builder.event(kind, **where, **fields)

    def _item_event(self, kind: str) -> JSONDict:
        return self._builder.event(kind, output_index=self.index, item=dict(self.data))

    def begin(self) -> list[JSONDict]:
        return [self._item_event("response.output_item.added")]

    def end(self, status: str) -> list[JSONDict]:
        self.data["status"] = status
        return [self._item_event("response.output_item.done")]


class _TextItem(_Item):
    """An item with one part of text."""

    kind = ""
    """The name of its events: ``response.<kind>.delta`` and ``response.<kind>.done``."""

    def __init__(self, builder: ResponseBuilder, data: JSONDict, part: JSONDict) -> None:
        super().__init__(builder, {**data, "status": "in_progress", "content": []})
        self._part = part
        self._texts: list[str] = []
        self._logprobs: list[JSONDict] = []

    def begin(self) -> list[JSONDict]:
        added = super().begin()
        part = self._event("response.content_part.added", content_index=0, part=dict(self._part))
        return [*added, part]

    def add(self, text: str, logprobs: list[JSONDict]) -> list[JSONDict]:
        self._texts.append(text)
        self._logprobs += logprobs
        return [self._text_event("delta", {"delta": text}, logprobs)]

    def _text_event(self, what: str, fields: JSONDict, logprobs: list[JSONDict]) -> JSONDict:
        return self._event(f"response.{self.kind}.{what}", content_index=0, **fields)

    def end(self, status: str) -> list[JSONDict]:
        self._part["text"] = text = "".join(self._texts)
        done = self._text_event("done", {"text": text}, self._logprobs)
        part = self._event("response.content_part.done", content_index=0, part=dict(self._part))
        self.data["content"] = [self._part]
        return [done, part, *super().end(status)]


class _MessageItem(_TextItem):
    kind = "output_text"

    def __init__(self, builder: ResponseBuilder) -> None:
        data = {"id": new_id("msg"), "type": "message", "role": "assistant"}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        super().__init__(builder, data, part)

    def _text_event(self, what: str, fields: JSONDict, logprobs: list[JSONDict]) -> JSONDict:
        return super()._text_event(what, {**fields, "logprobs": list(logprobs)}, logprobs)

    def end(self, status: str) -> list[JSONDict]:
        self._part["logprobs"] = self._logprobs
        return super().end(status)


class _ReasoningItem(_TextItem):
    kind = "reasoning_text"

    def __init__(self, builder: ResponseBuilder) -> None:
        data = {"id": new_id("rs"), "type": "reasoning", "summary": []}
        super().__init__(builder, data, {"type": "reasoning_text", "text": ""})


class _CallItem(_Item):
    def __init__(self, builder: ResponseBuilder, call_id: str, name: str) -> None:
        data = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call_id,
            "name": name,
            "arguments": "",
        }
        super().__init__(builder, data)

    def add(self, arguments: str) -> list[JSONDict]:
        self.data["arguments"] += arguments
        return [self._event("response.function_call_arguments.delta", delta=arguments)]

    def end(self, status: str) -> list[JSONDict]:
        fields = {"arguments": self.data["arguments"], "name": self.data["name"]}
        done = self._event("response.function_call_arguments.done", **fields)
        return [done, *super().end(status)]

"""One request to a server and its answer, both in OpenAI's shape."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import ProtocolError, UnsupportedFieldError
from mlc_widget.api.requests import JSONDict, choices_of
from mlc_widget.server_engine import answers

_MAX_TEXT: Final = 4 * 1024 * 1024
"""Of one choice; parsing JSON of this size takes some tenths of a second at worst."""
_PREFIXES: Final[dict[RequestKind, str]] = {
    "chat": "chatcmpl",
    "completion": "cmpl",
    "embedding": "embd",
}
_WHOLE: Final[dict[RequestKind, Callable[[Any], JSONDict]]] = {
    "chat": answers.chat,
    "completion": answers.completion,
    "embedding": answers.embeddings,
}
_OBJECTS: Final[dict[RequestKind, str]] = {
    "chat": "chat.completion",
    "completion": "text_completion",
    "embedding": "list",
}


@dataclass(slots=True)
class ChoiceSoFar:
    """What has come of one choice."""

    text: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    has_logprobs: bool = False
    has_calls: bool = False
    length: int = 0
    """The characters of all that was written: text, thoughts and arguments."""
    calls: dict[int, int] = field(default_factory=dict)
    """Our index of each tool call, by the server's."""


class Exchange:
    """A request that a server answers. It checks that the server ignored no field.

    Args:
        kind: The kind of request.
        model: The model that answers.
        request: The checked request.
        body: What is sent.
    """

    def __init__(
        self, kind: RequestKind, model: str, request: Mapping[str, Any], body: JSONDict
    ) -> None:
        self.kind = kind
        self.model = model
        self.body = body
        self.id: str = request.get("request_id") or f"{_PREFIXES[kind]}-{uuid.uuid4().hex}"
        self.began = time.monotonic()
        self.first: float | None = None
        """When a stream's first chunk came."""
        self.last = self.began
        """When something last came."""
        self.usage: JSONDict = {}
        self.choices: dict[int, ChoiceSoFar] = {}
        self._request = request
        self._expected = 1 if kind == "embedding" else choices_of(request)
        self._created = int(time.time())
        wants_usage = (request.get("stream_options") or {}).get("include_usage")
        self._wants_usage = bool(wants_usage)

    @property
    def text(self) -> str:
        """The text of the first choice so far."""
        return "".join(self.choices[0].text) if 0 in self.choices else ""

    @property
    def began_to_answer(self) -> bool:
        """Whether anything has come."""
        return self.last > self.began

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish reason."""
        return not any(self._is_open(index) for index in range(self._expected))

    @property
    def speeds(self) -> tuple[float, float]:
        """Tokens per second of prefill and of decoding; 0 where it cannot be told."""
        first = self.first or self.began
        prefill = self.usage.get("prompt_tokens", 0) / (first - self.began) if self.first else 0.0
        tokens, took = self.usage.get("completion_tokens", 0), self.last - first
        if self.first is not None:
            tokens -= 1
        return prefill, max(tokens, 0) / took if took > 0 else 0.0

    def whole(self, content: Any) -> JSONDict:
        """The whole answer.

        Raises:
            ProtocolError: It does not have OpenAI's shape.
            UnsupportedFieldError: The server ignored a field.
        """
        read = _WHOLE[self.kind](content)
        self.last = time.monotonic()
        self.usage = read.get("usage", {})
        if self.kind == "embedding":
            return {**self._envelope(_OBJECTS[self.kind]), **read}
        for choice in read["choices"]:
            self._note(choice, choice["message"] if self.kind == "chat" else choice)
        if len(read["choices"]) != len(self.choices):
            raise ProtocolError("The server sent a choice twice.")
        self._check_honoured()
        return {**self._envelope(_OBJECTS[self.kind]), **read, "usage": self._usage()}

    def chunks(self, event: Any) -> list[JSONDict]:
        """The chunks that an event of a stream stands for.

        Raises:
            ProtocolError: It does not have OpenAI's shape.
        """
        read = answers.chat_chunk(event) if self.kind == "chat" else answers.completion(event)
        self.usage = read.get("usage") or self.usage
        for choice in read["choices"]:
            said = choice["delta"] if self.kind == "chat" else choice
            so_far = self._note(choice, said)
            if "tool_calls" in said:
                said["tool_calls"] = [_piece(so_far, piece) for piece in said["tool_calls"]]
        if not read["choices"]:
            return []  # the usage comes at the end, wherever the server sends it
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
        return [{**self._envelope(self._chunk_object), "choices": read["choices"]}]

    def last_chunks(self) -> list[JSONDict]:
        """What follows the server's last event.

        Raises:
            ProtocolError: The answer is not complete.
            UnsupportedFieldError: The server ignored a field.
        """
        if any(choice.finish_reason is None for choice in self.choices.values()):
            raise ProtocolError("The server ended the answer without a finish reason.")
        self._check_honoured()
        return self._usage_chunks()

    def aborted_chunks(self) -> list[JSONDict]:
        """What follows when the answer is interrupted."""
        empty: JSONDict = {"delta": {}} if self.kind == "chat" else {"text": ""}
        open_ = [i for i in range(self._expected) if self._is_open(i)]
        choices = [{"index": i, "finish_reason": "abort", "logprobs": None, **empty} for i in open_]
        ends = [{**self._envelope(self._chunk_object), "choices": choices}] if choices else []
        return [*ends, *self._usage_chunks()]

    def aborted(self) -> JSONDict:
        """The whole answer when it is interrupted: what the server had written is not known."""
        if self.kind == "embedding":
            return {**self._envelope("list"), "data": [], "usage": self._usage()}
        said: JSONDict = {"text": ""}
        if self.kind == "chat":
            said = {"message": {"role": "assistant", "content": ""}}
        choices = [
            {"index": i, "finish_reason": "abort", "logprobs": None, **said}
            for i in range(self._expected)
        ]
        return {
            **self._envelope(_OBJECTS[self.kind]),
            "choices": choices,
            "usage": self._usage(),
        }

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else _OBJECTS[self.kind]

    def _envelope(self, name: str) -> JSONDict:
        return {"id": self.id, "object": name, "created": self._created, "model": self.model}

    def _is_open(self, index: int) -> bool:
        return index not in self.choices or self.choices[index].finish_reason is None

    def _note(self, choice: JSONDict, said: JSONDict) -> ChoiceSoFar:
        """Note a part of a choice, or the whole, and what it says.

        Raises:
            ProtocolError: It is longer than what any model writes.
        """
        so_far = self.choices.setdefault(choice["index"], ChoiceSoFar())
        text: str = said.get("content" if self.kind == "chat" else "text") or ""
        so_far.text.append(text)
        calls = [call.get("function") or {} for call in said.get("tool_calls") or ()]
        written = (text, said.get("reasoning_content"), *(call.get("arguments") for call in calls))
        so_far.length += sum(len(one or "") for one in written)
        if so_far.length > _MAX_TEXT:
            raise ProtocolError(f"The server's answer has more than {_MAX_TEXT} characters.")
        so_far.has_calls |= bool(calls)
        so_far.finish_reason = choice["finish_reason"] or so_far.finish_reason
        so_far.has_logprobs |= choice["logprobs"] is not None
        return so_far

    def _usage(self) -> JSONDict:
        """The server's usage, with times that were measured here."""
        extra = {"e2e_latency_s": time.monotonic() - self.began}
        if self.first is not None:
            prefill, decode = self.speeds
            extra["time_to_first_token_s"] = self.first - self.began
            extra["prefill_tokens_per_s"], extra["decode_tokens_per_s"] = prefill, decode
        return {**answers.no_usage(), **self.usage, "extra": extra}

    def _usage_chunks(self) -> list[JSONDict]:
        if not self._wants_usage or not self.usage:
            return []
        return [{**self._envelope(self._chunk_object), "choices": [], "usage": self._usage()}]

    def _check_honoured(self) -> None:
        """Compare the answer with the fields whose effect it must show.

        Raises:
            UnsupportedFieldError: One had no effect.
        """
        got = len(self.choices)
        if got != self._expected:
            sent = f"sent {got} choices instead of {self._expected}"
            if self._expected == 1:
                raise ProtocolError(f"The server {sent}.")
            name = "n" if (self._request.get("n") or 1) != 1 else "prompt"
            raise _ignored(name, f"it {sent}")
        asked = self._request.get("logprobs")
        if asked is not None and asked is not False:
            for choice in self.choices.values():
                if not choice.has_logprobs and "".join(choice.text):
                    raise _ignored("logprobs", "the answer has no log-probabilities")
        form = (self._request.get("response_format") or {}).get("type")
        if form in ("json_object", "json_schema"):
            for choice in self.choices.values():
                if choice.finish_reason == "stop" and not choice.has_calls:
                    _check_is_json("".join(choice.text))


def _check_is_json(text: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise _ignored("response_format", "the answer is not JSON") from None


def _ignored(name: str, shown: str) -> UnsupportedFieldError:
    return UnsupportedFieldError(
        f"{name}: the server ignored this field ({shown}). Leave it out, or use another server.",
        param=name,
    )


def _piece(so_far: ChoiceSoFar, piece: JSONDict) -> JSONDict:
    """A piece of a tool call in OpenAI's way: only a call's first piece has its id and name.

    Some servers repeat these, leave the id out, or do not count from 0.
    """
    function = piece.get("function") or {}
    arguments = function.get("arguments") or ""
    if piece["index"] in so_far.calls:
        return {"index": so_far.calls[piece["index"]], "function": {"arguments": arguments}}
    index = so_far.calls[piece["index"]] = len(so_far.calls)
    return {
        "index": index,
        "id": piece.get("id") or answers.new_call_id(),
        "type": "function",
        "function": {"name": function.get("name") or "", "arguments": arguments},
    }

"""What a chat is, as values: nothing here changes once made.

A conversation is a tree of messages; the path from its root to `ChatState.head` is what is shown.
A reply that is made anew gets a new id, so the text under one id only ever grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.requests import JSONDict

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Status: TypeAlias = Literal["queued", "running", "done", "stopped", "error"]


def error_json(error: BaseException | None) -> JSONDict | None:
    """An error as the page shows it: its class and its readable message."""
    if error is None:
        return None
    message = error.message if isinstance(error, MLCEngineError) else str(error)
    return {"type": type(error).__name__, "message": message or type(error).__name__}


@dataclass(frozen=True, slots=True)
class ReplyStats:
    """Figures of one reply; None where not known.

    Attributes:
        ttft_s: Seconds from the request to its first text, as the notebook sees it.
        tokens_per_s: Tokens per second after the first.
        prompt_tokens: Tokens of the whole prompt.
        completion_tokens: Tokens of the reply.
    """

    ttft_s: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @classmethod
    def of_usage(cls, usage: Mapping[str, Any], ttft_s: float | None) -> ReplyStats:
        """Read OpenAI's `usage` with WebLLM's `extra`."""
        extra = usage.get("extra") or {}
        return cls(
            ttft_s=ttft_s,
            tokens_per_s=extra.get("decode_tokens_per_s"),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )

    def to_json(self) -> JSONDict:
        """The fields by their names."""
        return {
            "ttft_s": self.ttft_s,
            "tokens_per_s": self.tokens_per_s,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the tree.

    Attributes:
        id: Unique in its chat.
        role: OpenAI's role.
        text: What it says so far.
        parent: The message before it, or None for the first.
        status: `done` for all but replies.
        finish: OpenAI's finish reason, once there is one.
        error: Why a reply failed.
        stats: Figures of a finished reply.
    """

    id: str
    role: Role
    text: str
    parent: str | None = None
    status: Status = "done"
    finish: str = ""
    error: BaseException | None = None
    stats: ReplyStats | None = None

    def to_json(self) -> JSONDict:
        """As the page reads it."""
        return {
            "id": self.id,
            "role": self.role,
            "text": self.text,
            "status": self.status,
            "finish": self.finish,
            "error": error_json(self.error),
            "stats": self.stats.to_json() if self.stats else None,
        }


@dataclass(frozen=True, slots=True)
class ChatState:
    """A conversation at one moment.

    Attributes:
        rev: Grows with each change.
        messages: The whole tree, by id, oldest first.
        head: The last message of the shown path.
    """

    rev: int = 0
    messages: Mapping[str, Message] = field(default_factory=lambda: MappingProxyType({}))
    head: str | None = None

    def put(self, *messages: Message, head: str | None = None) -> ChatState:
        """The state with these messages added or replaced, and the path's end moved to `head`."""
        merged = {**self.messages, **{message.id: message for message in messages}}
        return replace(
            self,
            rev=self.rev + 1,
            messages=MappingProxyType(merged),
            head=self.head if head is None else head,
        )

    def path(self, end: str | None = None) -> tuple[Message, ...]:
        """The messages from the first to `end`, or to the head."""
        found: list[Message] = []
        at = self.head if end is None else end
        while at is not None:
            found.append(self.messages[at])
            at = found[-1].parent
        return tuple(reversed(found))

    def to_json(self) -> JSONDict:
        """The shown path, as the page reads it."""
        return {"rev": self.rev, "messages": [message.to_json() for message in self.path()]}


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How replies are made; None leaves it to the model's own configuration."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def request(self, history: tuple[Message, ...]) -> JSONDict:
        """A streaming request in OpenAI's shape for the reply that follows `history`."""
        messages: list[JSONDict] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        messages += openai_messages(answered(history))
        request: JSONDict = {
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            value = getattr(self, name)
            if value is not None:
                request[name] = value
        return request


def answered(history: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the questions that got no answer: the model never spoke to them."""
    kept: list[Message] = []
    for message in history:
        if message.role == "assistant" and not message.text:
            if kept and kept[-1].role == "user":
                kept.pop()
        else:
            kept.append(message)
    return tuple(kept)


def openai_messages(messages: tuple[Message, ...]) -> list[JSONDict]:
    """Messages in OpenAI's shape; replies that have no text yet are left out."""
    return [
        {"role": message.role, "content": message.text}
        for message in messages
        if message.text or message.role != "assistant"
    ]

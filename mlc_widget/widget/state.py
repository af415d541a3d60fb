"""A chat's state as immutable values.

A conversation is a tree of messages; the path from its root to `ChatState.head` is what is shown.
A regenerated reply gets a new id, so the text of one id only ever grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.title import first_words

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Status: TypeAlias = Literal["queued", "running", "done", "stopped", "error"]
_PREVIEW: Final = 2_000
"""Characters of an attachment that the page shows."""


def error_json(error: BaseException | None) -> JSONDict | None:
    """An error in the page's format: its class and its message."""
    if error is None:
        return None
    message = error.message if isinstance(error, MLCEngineError) else str(error)
    return {"type": type(error).__name__, "message": message or type(error).__name__}


@dataclass(frozen=True, slots=True)
class ReplyStats:
    """Statistics of one reply; None where unknown.

    Attributes:
        ttft_s: Seconds from the request to the first text, measured in the notebook.
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
class Attachment:
    """A text that goes to the model with a message.

    Attributes:
        name: The name of a file, or what was named in the message, such as ``df``.
        text: The text.
        variable: Whether it stands in the message in place of a variable's name.
    """

    name: str
    text: str
    variable: bool = False

    def to_json(self) -> JSONDict:
        """Its beginning, in the page's format."""
        return {
            "name": self.name,
            "text": self.text[:_PREVIEW],
            "length": len(self.text),
            "variable": self.variable,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the tree.

    Attributes:
        id: Unique in its chat.
        role: OpenAI's role.
        text: Its text so far; of a question, as the user wrote it.
        prompt: A question as the model reads it, if that differs.
        attachments: What `prompt` has in addition.
        reasoning: A reply's thoughts, if the engine separates them from the answer.
        tool_calls: A reply's tool calls, in OpenAI's shape.
        calling: Whether these calls are being made.
        calls_stopped: Whether they were being made when the user stopped them.
        questions: The calls that the user is asked about, in the page's format
            (`approvals.Question`).
        tool_call_id: The call that a tool's result answers.
        name: The tool of a tool's result.
        json: Whether a reply must be JSON.
        parent: The message before it, or None for the first.
        status: `done` for all but replies.
        finish: OpenAI's finish reason, once there is one.
        error: Why a reply failed.
        stats: Statistics of a finished reply.
        resumed: Set if a new worker continued it after the first one died: whether the text is
            the same as without that.
        repeats: Whether a reply's end repeats itself.
        tokens: A reply's tokens with their log-probabilities, in the shape of the entries of
            OpenAI's ``logprobs["content"]``, if they were asked for.
    """

    id: str
    role: Role
    text: str
    parent: str | None = None
    prompt: str = ""
    attachments: tuple[Attachment, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[JSONDict, ...] = ()
    calling: bool = False
    calls_stopped: bool = False
    questions: tuple[JSONDict, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    json: bool = False
    status: Status = "done"
    finish: str = ""
    error: BaseException | None = None
    stats: ReplyStats | None = None
    resumed: bool | None = None
    repeats: bool = False
    tokens: tuple[JSONDict, ...] = ()

    @property
    def calls_are_whole(self) -> bool:
        """Whether its tool calls are complete and may be made.

        If a reply was cut short (``length``), stopped or failed, arguments or calls may be
        missing. Messages from a history have no finish reason.
        """
        ended = self.status == "done" and self.finish in ("", "tool_calls")
        return bool(self.tool_calls) and ended

    def to_json(self) -> JSONDict:
        """The message in the page's format."""
        return {
            "id": self.id,
            "role": self.role,
            "text": self.text,
            "attachments": [item.to_json() for item in self.attachments],
            "reasoning": self.reasoning,
            "tool_calls": [
                {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
                for call in self.tool_calls
            ],
            "calling": self.calling,
            "calls_stopped": self.calls_stopped,
            "questions": list(self.questions),
            "name": self.name,
            "json": self.json,
            "status": self.status,
            "finish": self.finish,
            "error": error_json(self.error),
            "stats": self.stats.to_json() if self.stats else None,
            "resumed": self.resumed,
            "repeats": self.repeats,
            "tokens": len(self.tokens),
        }


@dataclass(frozen=True, slots=True)
class ChatState:
    """A conversation at one moment.

    Attributes:
        rev: Increases with each change.
        messages: The whole tree, by id, oldest first.
        head: The last message of the shown path.
        chosen: For each message that has several successors (None for the first messages), the
            one that was shown last.
        titles: The titles that the user gave, by the conversations' first messages; under None,
            the title of the one that is shown and has no message yet.
    """

    rev: int = 0
    messages: Mapping[str, Message] = field(default_factory=lambda: MappingProxyType({}))
    head: str | None = None
    chosen: Mapping[str | None, str] = field(default_factory=lambda: MappingProxyType({}))
    titles: Mapping[str | None, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def given_title(self) -> str:
        """The title that the user gave the shown conversation, or ""."""
        return self.titles.get(self._first, "")

    @property
    def title(self) -> str:
        """The title of the shown conversation: as given, or the first question's first words."""
        return self.given_title or self._title_of_question

    def entitled(self, title: str) -> ChatState:
        """The state in which the shown conversation has this title; "" for its own."""
        titles: dict[str | None, str] = {
            key: value for key, value in self.titles.items() if key not in (None, self._first)
        }
        if title and title != self._title_of_question:
            titles[self._first] = title
        return replace(self, rev=self.rev + 1, titles=MappingProxyType(titles))

    @property
    def _first(self) -> str | None:
        path = self.path()
        return path[0].id if path else None

    @property
    def _title_of_question(self) -> str:
        question = next((message for message in self.path() if message.role == "user"), None)
        if question is None:
            return ""
        named = next((item.name for item in question.attachments), "")
        return first_words(question.text) or first_words(named)

    def put(self, *messages: Message, head: str | None = None) -> ChatState:
        """The state with these messages added or replaced, and `head` as the path's end."""
        merged = {**self.messages, **{message.id: message for message in messages}}
        state = replace(self, rev=self.rev + 1, messages=MappingProxyType(merged))
        return state if head is None else state._at(head)

    def select(self, message_id: str) -> ChatState:
        """The state that shows the path through this message, as far as it was shown last."""
        head = message_id
        children = self._children()
        while below := children.get(head):
            head = self.chosen.get(head, below[-1])
        return replace(self, rev=self.rev + 1)._at(head)

    def without_path(self) -> ChatState:
        """The state that shows no message; the next one begins another branch."""
        titles: dict[str | None, str] = {
            key: value for key, value in self.titles.items() if key is not None
        }
        return replace(self, rev=self.rev + 1, head=None, titles=MappingProxyType(titles))

    @property
    def earlier(self) -> str | None:
        """The first message of the branch that was shown before `without_path`, if there is one."""
        return self.chosen.get(None) if self.head is None else None

    def without(self, message_id: str) -> ChatState:
        """The state without this message and all that follow it."""
        gone = self.subtree(message_id)
        parent = self.messages[message_id].parent
        kept = {key: value for key, value in self.messages.items() if key not in gone}
        chosen = {key: value for key, value in self.chosen.items() if value not in gone}
        titles: dict[str | None, str] = {
            key: value for key, value in self.titles.items() if key not in gone
        }
        state = replace(
            self,
            rev=self.rev + 1,
            messages=MappingProxyType(kept),
            chosen=MappingProxyType(chosen),
            titles=MappingProxyType(titles),
        )
        if self.head not in gone:
            return state
        beside = state._children().get(parent)
        if beside:
            return state.select(beside[-1])
        return replace(state, head=parent)

    def behind(self, parent: str, message_id: str) -> ChatState:
        """The state with this message, and all that follow it, moved behind `parent`."""
        moved = self.subtree(message_id)
        messages = {key: value for key, value in self.messages.items() if key not in moved}
        # Last, as a parent comes before what follows it.
        messages |= {key: value for key, value in self.messages.items() if key in moved}
        messages[message_id] = replace(self.messages[message_id], parent=parent)
        chosen = {key: value for key, value in self.chosen.items() if value != message_id}
        return replace(
            self,
            rev=self.rev + 1,
            messages=MappingProxyType(messages),
            chosen=MappingProxyType(chosen),
        )

    def subtree(self, message_id: str) -> frozenset[str]:
        """This message and all that follow it, in all branches."""
        found = {message_id}
        for message in self.messages.values():  # oldest first, so a parent comes before
            if message.parent in found:
                found.add(message.id)
        return frozenset(found)

    def _at(self, head: str) -> ChatState:
        path = replace(self, head=head).path()
        chosen = {**self.chosen, **{message.parent: message.id for message in path}}
        return replace(self, head=head, chosen=MappingProxyType(chosen))

    def _children(self) -> dict[str | None, list[str]]:
        children: dict[str | None, list[str]] = {}
        for message in self.messages.values():
            children.setdefault(message.parent, []).append(message.id)
        return children

    def path(self, end: str | None = None) -> tuple[Message, ...]:
        """The messages from the first to `end`, or to the head."""
        found: list[Message] = []
        at = self.head if end is None else end
        while at is not None:
            found.append(self.messages[at])
            at = found[-1].parent
        return tuple(reversed(found))

    def turn(self, question: str) -> tuple[Message, ...]:
        """The messages between a user message and the next one, in the branches chosen last."""
        found: list[Message] = []
        at = self.chosen.get(question)
        while at is not None and self.messages[at].role != "user":
            found.append(self.messages[at])
            at = self.chosen.get(at)
        return tuple(found)

    def question(self, message_id: str) -> str | None:
        """The user message that this message follows, or the message itself."""
        asked = [m.id for m in self.path(message_id) if m.role == "user"]
        return asked[-1] if asked else None

    def to_json(self, shown: tuple[Message, ...] | None = None) -> JSONDict:
        """The shown path in the page's format; `branches` lists a message's alternatives.

        Args:
            shown: Include only these messages.
        """
        children = self._children()
        messages = []
        for message in self.path() if shown is None else shown:
            beside = children[message.parent]
            messages.append({**message.to_json(), "branches": beside if len(beside) > 1 else []})
        return {
            "rev": self.rev,
            "messages": messages,
            "earlier": self.earlier,
            "title": self.title,
        }

"""What a reply is requested with: its options, and the conversation in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.state import Message

DEFAULT_MAX_TOKENS: Final = 4096
"""The longest reply in tokens, if neither the user nor the model sets a limit: small models may
never end by themselves."""
TOP_LOGPROBS: Final = 5
"""The number of most likely tokens that a reply has for each of its positions."""
_SENT: Final = (
    *("model", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"),
    *("seed", "tools"),
)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of replies; None leaves one to the model's configuration.

    Attributes:
        system: The system prompt.
        temperature: As in OpenAI's requests, like `top_p` and `seed`.
        top_k: As in vLLM's and llama.cpp's requests, like `min_p`.
        repetition_penalty: As in WebLLM's and vLLM's requests.
        max_tokens: As in OpenAI's requests; `DEFAULT_MAX_TOKENS` if the configuration has no
            limit either.
        logprobs: Whether replies have the probabilities of their tokens.
        schema: A JSON schema that answers must meet.
        tools: What the model may call: OpenAI's tools (a `FunctionTool` if a function implements
            it) and `MCPServer`s.
        sampling: Further sampling fields of requests, such as `dry_multiplier`.
        system_prompts: System prompts to choose from, by their names.
        model: Which of the engine's models answers, if it has several.
    """

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    logprobs: bool | None = None
    schema: JSONDict | None = None
    tools: list[Any] | None = None
    sampling: JSONDict | None = None
    system_prompts: dict[str, str] | None = None
    model: str | None = None

    def request(self, history: tuple[Message, ...]) -> JSONDict:
        """A streaming request in OpenAI's shape for the reply that follows `history`."""
        messages: list[JSONDict] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        messages += with_all_results(openai_messages(answered(history)))
        request: JSONDict = {
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for name in _SENT:
            value = getattr(self, name)
            if value is not None:
                request[name] = value
        if self.logprobs:
            request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if self.schema is not None:
            request["response_format"] = json_answer(self.schema)
        return request | (self.sampling or {})


def json_answer(schema: JSONDict) -> JSONDict:
    """OpenAI's `response_format` for answers that match a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def answered(history: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages without user messages that were never answered."""
    kept: list[Message] = []
    last = len(history) - 1
    for index, message in enumerate(history):
        if message.role == "assistant" and not message.text and not message.tool_calls:
            if kept and kept[-1].role == "user":
                kept.pop()
        elif message.role == "user" and index < last and history[index + 1].role == "user":
            continue  # its reply was deleted
        else:
            kept.append(message)
    return tuple(kept)


NOT_MADE: Final = "Error: this call was not made."
"""The result that a model gets for calls that were cut short, or have no result."""


def with_all_results(messages: Sequence[JSONDict]) -> list[JSONDict]:
    """Messages in OpenAI's shape in which every call has a result, as its API requires."""
    shaped: list[JSONDict] = []
    open_calls: list[str] = []
    for message in (*messages, None):
        if message is not None and message["role"] == "tool":
            if message["tool_call_id"] in open_calls:
                open_calls.remove(message["tool_call_id"])
        else:
            shaped += [
                {"role": "tool", "tool_call_id": call_id, "content": NOT_MADE}
                for call_id in open_calls
            ]
            calls = () if message is None else message.get("tool_calls", ())
            open_calls = [call["id"] for call in calls]
        if message is not None:
            shaped.append(message)
    return shaped


def openai_message(message: Message) -> JSONDict:
    """A message in OpenAI's shape."""
    shaped: JSONDict = {"role": message.role, "content": message.prompt or message.text}
    if message.tool_calls:
        shaped["tool_calls"] = list(message.tool_calls)
    if message.role == "tool":
        shaped["tool_call_id"] = message.tool_call_id
    return shaped


def openai_messages(messages: tuple[Message, ...]) -> list[JSONDict]:
    """Messages in OpenAI's shape, without replies that have no text yet."""
    return [
        openai_message(message)
        for message in messages
        if message.text or message.tool_calls or message.role != "assistant"
    ]

"""Builds responses in OpenAI's shapes, as plain dicts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.answer import Delta
from mlc_widget.engine.runtimes.base import GenerationStats, TokenLogprob


def usage(stats: Sequence[GenerationStats], e2e_s: float, *, n: int = 1) -> JSONDict:
    """OpenAI's usage over all choices; `extra` has WebLLM's names (speeds in tokens/s, times in s).

    Args:
        stats: The statistics of each choice.
        n: The number of choices for each prompt.
        e2e_s: Seconds from the request's arrival to its last token.
    """
    prompt = sum(s.prompt_tokens for s in stats[::n])
    cached = sum(s.cached_tokens for s in stats[::n])
    completion = sum(s.completion_tokens for s in stats)
    prefill_s = max(s.prefill_s for s in stats)
    decode_s = max(s.decode_s for s in stats)
    decoded = completion - len(stats)  # the first token of each comes from prefill
    extra: JSONDict = {}
    if any(s.grammar_init_s is not None for s in stats):
        extra["grammar_init_s"] = sum(s.grammar_init_s or 0.0 for s in stats)
        extra["grammar_per_token_s"] = sum(s.grammar_s for s in stats) / max(completion, 1)
    drafted = sum(s.draft_tokens for s in stats)
    if drafted:
        extra["draft_tokens"] = drafted
        extra["accepted_draft_tokens"] = sum(s.accepted_draft_tokens for s in stats)
    latency = [s.latency for s in stats if s.latency is not None]
    if latency:
        extra["latencyBreakdown"] = {
            stage: [t for one in latency for t in one[stage]] for stage in latency[0]
        }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "extra": {
            "e2e_latency_s": e2e_s,
            "prefill_tokens_per_s": (prompt - cached) / prefill_s if prefill_s > 0 else 0.0,
            "decode_tokens_per_s": decoded / decode_s if decode_s > 0 else 0.0,
            "time_to_first_token_s": max(s.queue_s + s.prefill_s for s in stats),
            "time_per_output_token_s": decode_s / decoded if decoded > 0 else 0.0,
            **extra,
        },
    }


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """Builds the chunks and the whole response of one request.

    Attributes:
        kind: The kind of request.
        model: The model's id, as the user gave it.
        id: The request's id.
        chat_logprobs: Whether a completion's log-probabilities have the shape of a chat's.
    """

    kind: Literal["chat", "completion"]
    model: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))
    chat_logprobs: bool = False

    def _envelope(self, choices: list[JSONDict], *, chunk: bool) -> JSONDict:
        if self.kind == "chat":
            name = "chat.completion.chunk" if chunk else "chat.completion"
        else:
            name = "text_completion"
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def chunk(
        self,
        index: int,
        new: Delta,
        *,
        first: bool,
        finish_reason: str | None,
        logprobs: JSONDict | None,
    ) -> JSONDict:
        """A chunk of one choice."""
        choice: JSONDict = {"index": index, "finish_reason": finish_reason, "logprobs": logprobs}
        if self.kind == "chat":
            delta: JSONDict = {"role": "assistant"} if first else {}
            if new.content or (first and not (new.reasoning or new.tool_calls)):
                delta["content"] = new.content
            if new.reasoning:
                delta["reasoning_content"] = new.reasoning
            if new.tool_calls:
                delta["tool_calls"] = list(new.tool_calls)
            choice["delta"] = delta
        else:
            choice["text"] = new.content
        return self._envelope([choice], chunk=True)

    def usage_chunk(self, used: JSONDict) -> JSONDict:
        """The last chunk of a stream that asked for usage."""
        return {**self._envelope([], chunk=True), "usage": used}

    def whole(self, choices: Sequence[Choice], used: JSONDict) -> JSONDict:
        """The response to a request without streaming."""
        shaped = []
        for i, choice in enumerate(choices):
            logprobs = join_logprobs(choice.logprobs) if choice.logprobs else None
            one: JSONDict = {
                "index": i,
                "finish_reason": choice.finish_reason,
                "logprobs": logprobs,
            }
            if self.kind == "chat":
                one["message"] = choice.message()
            else:
                one["text"] = choice.text
            shaped.append(one)
        return {**self._envelope(shaped, chunk=False), "usage": used}

    def logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> JSONDict | None:
        """The log-probabilities of some tokens; the first begins at `offset` of the text."""
        if not tokens:
            return None
        if self.kind == "chat" or self.chat_logprobs:
            return {
                "content": [
                    {
                        **_token(t.token, t.logprob),
                        "top_logprobs": [_token(b, p) for _, b, p in t.top],
                    }
                    for t in tokens
                ]
            }
        texts = [t.token.decode("utf-8", "replace") for t in tokens]
        offsets = [offset + sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": [_name(t.token) for t in tokens],
            "token_logprobs": [None if math.isnan(t.logprob) else t.logprob for t in tokens],
            "top_logprobs": [_alternatives(t) for t in tokens],
            "text_offset": offsets,
        }


@dataclass(slots=True)
class Choice:
    """One choice of a response while it is being assembled."""

    parts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[JSONDict] = field(default_factory=list)
    length: int = 0
    finish_reason: str | None = None
    logprobs: list[JSONDict] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All content so far."""
        return "".join(self.parts)

    def message(self) -> JSONDict:
        """OpenAI's message."""
        text = self.text
        message: JSONDict = {"role": "assistant", "content": text}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.tool_calls:
            message["content"] = text or None
            message["tool_calls"] = self.tool_calls
        return message

    def add(self, new: Delta, length: int, logprobs: JSONDict | None) -> None:
        """Append new content, which was made from `length` characters of the model's text."""
        self.parts.append(new.content)
        if new.reasoning:
            self.reasoning.append(new.reasoning)
        for piece in new.tool_calls:
            if "id" in piece:
                whole = {k: v for k, v in piece.items() if k != "index"}
                self.tool_calls.append({**whole, "function": dict(whole["function"])})
            else:
                function = self.tool_calls[piece["index"]]["function"]
                function["arguments"] += piece["function"]["arguments"]
        self.length += length
        if logprobs is not None:
            self.logprobs.append(logprobs)


def join_logprobs(parts: Sequence[JSONDict]) -> JSONDict:
    """Join the ``logprobs`` objects of successive chunks."""
    joined: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _name(token: bytes) -> str:
    """A token's name in completions: its text, or its bytes if it is part of a character."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in token)


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    """The most probable tokens and the chosen one; of equal texts, only the more probable."""
    if math.isnan(token.logprob):
        return None
    found: dict[str, float] = {}
    for _, text, logprob in token.top:
        found.setdefault(_name(text), logprob)
    if token.top or not found:
        found.setdefault(_name(token.token), token.logprob)
    return found


def _token(token: bytes, logprob: float) -> JSONDict:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}

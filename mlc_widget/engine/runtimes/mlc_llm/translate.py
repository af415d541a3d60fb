"""Translates mlc_llm's output to ours: statistics, finish reasons, log-probabilities, token ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.base import FinishReason, GenerationStats, TokenLogprob
from mlc_widget.engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """One item of mlc_llm's stream.

    Attributes:
        text: New text.
        logprobs: For each new token, mlc_llm's JSON text of its log-probabilities, if requested.
        finish_reason: mlc_llm's finish reason, in the item with the last text.
        usage: mlc_llm's usage, in an item after the last text.
    """

    text: str = ""
    logprobs: tuple[str, ...] = ()
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None


def finish_reason(reason: str) -> FinishReason:
    """Translate a finish reason.

    Raises:
        InternalEngineError: The reason stands for an error.
    """
    match reason:
        case "stop" | "length" | "abort":
            return reason
        case "preempt":  # the KV cache is full
            return "length"
    raise InternalEngineError(f"mlc_llm ended the text with the reason {reason!r}.")


def stats(usage: Mapping[str, Any], *, prompt_tokens: int) -> GenerationStats:
    """Make statistics from mlc_llm's usage and its `extra`.

    mlc_llm's times are those at which tokens reach its stream. A request for one token has no
    decode speed, and one that was served from the prefix cache has few prefill tokens.
    """
    extra = usage.get("extra") or {}

    def number(name: str) -> float:
        value = extra.get(name)
        return float(value) if isinstance(value, int | float) else 0.0

    prefill_tokens = number("prefill_tokens") or float(prompt_tokens)
    prefill_speed = number("prefill_tokens_per_s")
    first = number("ttft_s")
    prefill_s = min(prefill_tokens / prefill_speed, first) if prefill_speed > 0 else first
    return GenerationStats(
        prompt_tokens=prompt_tokens,
        cached_tokens=max(prompt_tokens - int(prefill_tokens), 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        queue_s=max(first - prefill_s, 0.0),
        prefill_s=prefill_s,
        decode_s=max(number("end_to_end_latency_s") - first, 0.0),
    )


class TokenIds:
    """Finds token ids by the tokens' bytes, as mlc_llm's log-probabilities have only the bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids: dict[bytes, int] = {}
        # A byte may have an ordinary token and a byte token; models write the ordinary one.
        for token_id in range(tokenizer.vocab_size - 1, -1, -1):
            self._ids[tokenizer.token_bytes(token_id)] = token_id
        for token_id in range(tokenizer.vocab_size):
            token = tokenizer.token_bytes(token_id)
            if len(token) == 1 and not _is_byte_token(tokenizer, token_id, token):
                self._ids[token] = token_id

    def find(self, token: bytes) -> int:
        """The id of the token with these bytes; -1 if there is none."""
        return self._ids.get(token, -1)


def _is_byte_token(tokenizer: Tokenizer, token_id: int, token: bytes) -> bool:
    return tokenizer.token_to_id(f"<0x{token[0]:02X}>") == token_id


def logprobs(texts: Iterable[str], ids: TokenIds) -> list[TokenLogprob]:
    """Parse mlc_llm's JSON texts of log-probabilities.

    It reads their ``bytes``, not ``token``, which keeps printable ASCII only and no leading space.
    """
    found = []
    for text in texts:
        if not text:
            continue
        entry = json.loads(text)
        token = bytes(entry["bytes"])
        top = []
        for other in entry.get("top_logprobs") or ():
            data = bytes(other["bytes"])
            top.append((ids.find(data), data, float(other["logprob"])))
        found.append(
            TokenLogprob(
                token_id=ids.find(token),
                token=token,
                logprob=float(entry["logprob"]),
                top=tuple(top),
            )
        )
    return found


def known_ids(entries: Sequence[TokenLogprob]) -> tuple[int, ...]:
    """The entries' token ids; an empty tuple if one of them is unknown."""
    ids = tuple(e.token_id for e in entries)
    return ids if all(i >= 0 for i in ids) else ()

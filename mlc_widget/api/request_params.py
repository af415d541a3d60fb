"""The fields of requests by name and type, as keyword arguments of the resources and of maps.

None has the same effect as leaving a field out. `api.requests` checks the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class SamplingParams(TypedDict, total=False):
    """Which model answers, how it chooses tokens, and when it stops."""

    model: str | None
    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    stop: str | Sequence[str] | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_sequence_breakers: str | Sequence[str] | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float] | None
    ignore_eos: bool | None


class _GenerationParams(SamplingParams, total=False):
    n: int | None
    seed: int | None
    response_format: Mapping[str, Any] | None
    stream_options: Mapping[str, Any] | None
    enable_latency_breakdown: bool | None
    request_id: str | None
    user: str | None
    extra_body: Mapping[str, Any] | None


class ChatParams(_GenerationParams, total=False):
    """Fields of `chat.completions.create` in addition to ``messages`` and ``stream``.

    None has the same effect as leaving the field out. The page "Request fields" lists the meaning,
    the range and the default of each.
    """

    logprobs: bool | None
    top_logprobs: int | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    enable_thinking: bool | None
    metadata: Mapping[str, Any] | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    store: Literal[False] | None
    service_tier: Literal["auto", "default", "flex"] | None
    modalities: Sequence[Literal["text"]] | None
    resumable: Mapping[str, Any] | None


class CompletionParams(_GenerationParams, total=False):
    """Fields of `completions.create` in addition to ``prompt`` and ``stream``; see `ChatParams`."""

    logprobs: int | bool | None
    top_logprobs: int | None
    echo: bool | None


class EmbeddingParams(TypedDict, total=False):
    """Fields of `embeddings.create` in addition to ``input``; see `ChatParams`."""

    model: str | None
    dimensions: int | None
    truncate: bool | None
    encoding_format: Literal["float", "base64"] | None
    request_id: str | None
    user: str | None

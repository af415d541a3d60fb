"""Caps that keep one request from exhausting the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum sizes (``…_bytes``, in bytes) and counts (all others) for one request."""

    prompt_bytes: int = 4 * 1024 * 1024
    messages: int = 4096
    input_bytes: int = 16 * 1024 * 1024
    stop_strings: int = 16
    stop_bytes: int = 1024
    choices: int = 16
    completions: int = 256
    logit_bias: int = 4096
    logit_bias_bytes: int = 1024
    sequence_breakers: int = 64
    sequence_breaker_bytes: int = 64
    embedding_inputs: int = 2048
    embedding_bytes: int = 8 * 1024 * 1024
    schema_depth: int = 32
    schema_bytes: int = 256 * 1024
    tools: int = 128


LIMITS: Final = Limits()

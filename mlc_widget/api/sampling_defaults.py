"""The values of sampling fields that neither a request nor its model's configuration gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

SAMPLING_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "max_tokens": None,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_sequence_breakers": ["\n", ":", '"', "*"],
    }
)
"""A model's configuration, and `chat_opts`, may give others; none of these restricts the choice of
tokens. Those of DRY are llama.cpp's."""

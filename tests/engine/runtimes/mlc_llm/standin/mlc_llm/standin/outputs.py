from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """What the engine's thread emits for one choice at one moment."""

    text: str = ""
    logprobs: list[str] | None = None
    reason: str | None = None
    usage: str | None = None

"""Answers that outlive the process that asked for them: WebLLM's resumable sessions.

A chat request with ``resumable={"enabled": True}`` has its answer written to a session on disk
while it is generated. After a crash, the answer can be read there, and continued.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias

from mlc_widget.api.request_values import JSONDict

RecoveryMode: TypeAlias = Literal["token_replay", "text_only", "none"]


@dataclass(frozen=True, slots=True)
class ResumableSession:
    """One session on disk.

    Attributes:
        session_id: Its name.
        resumable: Whether the answer can be continued.
        reason: Why, or why not.
        model_id: The model that wrote it, as it was loaded.
        emitted_tokens: The tokens of the answer that are on disk; 0 if the runtime does not report
            tokens.
        processed_seq_len: These and the prompt's.
        recovery_mode: How it continues: ``token_replay``, exactly; ``text_only``, after its text,
            where the runtime is not batch-invariant; or ``none``.
        stored_prompt: Whether it has the request's messages, and so continues without them.
    """

    session_id: str
    resumable: bool
    reason: str
    model_id: str
    emitted_tokens: int
    processed_seq_len: int
    recovery_mode: RecoveryMode
    stored_prompt: bool

    def to_wire(self) -> JSONDict:
        """As WebLLM's `ResumeProbeResult`."""
        return _by_web_llms_names(asdict(self))

    @classmethod
    def from_wire(cls, content: Mapping[str, Any]) -> Self:
        """From WebLLM's `ResumeProbeResult`."""
        return cls(**_by_our_names(content))


@dataclass(frozen=True, slots=True)
class ResumeResult:
    """What was recovered of an answer.

    Attributes:
        session_id: The session.
        recovered_text: The answer's text: what is on disk or, if it was continued, all of it.
        emitted_tokens: Its tokens; 0 if the runtime does not report tokens.
        processed_seq_len: These and the prompt's.
        replayed_tokens: How many of them were on disk and computed again.
        recovery_mode: How it was continued; ``text_only`` if it was only read.
        finish_reason: Why the answer ended; None if it has not ended.
    """

    session_id: str
    recovered_text: str
    emitted_tokens: int
    processed_seq_len: int
    replayed_tokens: int
    recovery_mode: RecoveryMode
    finish_reason: str | None = None

    def to_wire(self) -> JSONDict:
        """As WebLLM's type of the same name."""
        return _by_web_llms_names(asdict(self))

    @classmethod
    def from_wire(cls, content: Mapping[str, Any]) -> Self:
        """From WebLLM's type of the same name."""
        return cls(**_by_our_names(content))


def _by_web_llms_names(values: Mapping[str, Any]) -> JSONDict:
    return {re.sub("_(.)", lambda m: m[1].upper(), name): value for name, value in values.items()}


def _by_our_names(values: Mapping[str, Any]) -> JSONDict:
    return {
        re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name): value for name, value in values.items()
    }

"""Continues an answer that another process began, after the part that was delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from mlc_widget.api.errors import EngineDeadError, ProtocolError
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.model import LoadedModel
from mlc_widget.engine.runtimes.base import FinishReason, Sampling

_FINISH_REASONS: Final = ("stop", "length", "abort", "tool_calls")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The part of one choice that the reader has, from the journal of its chunks.

    Attributes:
        tokens: The token ids of its chunks, without those of the last event.
        text: The model's text, instead of `tokens`, if the runtime is not batch-invariant.
        finish_reason: The finish reason, if the reader has the last chunk.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a generation starts.

    Attributes:
        prompt: Token ids.
        sampling: The sampling settings for the rest.
        delivered: How many tokens at the end of the prompt belong to the answer.
        finish_reason: Set if there is nothing left to generate.
    """

    prompt: Sequence[int]
    sampling: Sampling
    delivered: int = 0
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Resumption:
    """A stream to continue.

    Attributes:
        created: The ``created`` of the first chunk.
        choices: What was delivered of each choice; None if it has not begun.
    """

    created: int
    choices: tuple[Delivered | None, ...]

    @classmethod
    def read(cls, content: Any) -> Resumption:
        """Read the ``resume`` of a stream's init.

        Raises:
            ProtocolError: It is malformed.
        """
        if isinstance(content, Mapping):
            created, choices = content.get("created"), content.get("choices")
            if type(created) is int and isinstance(choices, list) and choices:
                return cls(created, tuple(map(_read_choice, choices)))
        raise ProtocolError("resume needs created and choices", param="resume")

    def check(self, model: LoadedModel, sampling: Sampling, choices: int) -> None:
        """Refuse a stream that cannot be continued.

        Raises:
            EngineDeadError: The runtime cannot continue such an answer.
            ProtocolError: The number of choices does not match.
        """
        exact = is_exact(model)
        if choices != len(self.choices):
            raise ProtocolError(
                f"resume has {len(self.choices)} choices and the request {choices}", param="resume"
            )
        if any(c is not None and bool(c.text if exact else c.tokens) for c in self.choices):
            raise EngineDeadError(
                f"The worker died, and the new worker uses another runtime ({model.runtime.name}), "
                "which cannot continue the answer: send the request again."
            )
        if exact:
            return
        formatted = (sampling.response_format or {}).get("type", "text") != "text"
        field = "logprobs" if sampling.logprobs else "response_format" if formatted else None
        if field and any(c is not None and c.finish_reason is None for c in self.choices):
            raise EngineDeadError(
                f"The worker died, and the {model.runtime.name} runtime cannot continue an answer "
                f"with {field}: send the request again."
            )

    def marker(self, model: LoadedModel) -> JSONDict:
        """The ``resumed`` field of the first chunk after the resumption."""
        tokens = sum(_count(model, c) for c in self.choices if c is not None)
        return {"exact": is_exact(model), "tokens": tokens}


def is_exact(model: LoadedModel) -> bool:
    """Whether a resumed answer equals the one that would have come without the interruption."""
    return model.runtime.capabilities.batch_invariant


def begin(
    model: LoadedModel, prompt: Sequence[int], sampling: Sampling, delivered: Delivered | None
) -> Beginning:
    """How one choice begins, or continues after what was delivered.

    A runtime that is not batch-invariant gets the delivered text as part of the prompt.
    """
    if delivered is None:
        return Beginning(prompt, sampling)
    if is_exact(model):
        return Beginning(prompt, replace(sampling, resume=delivered.tokens, prompt_logprobs=False))
    ids = model.tokenizer.encode(delivered.text)
    reason = delivered.finish_reason
    if sampling.max_tokens is not None:
        left = sampling.max_tokens - len(ids)
        reason = reason or ("length" if left <= 0 else None)
        sampling = replace(sampling, max_tokens=left)
    if len(prompt) + len(ids) >= model.runtime.context_window_size:
        reason = reason or "length"
    return Beginning([*prompt, *ids], sampling, len(ids), reason)


def _read_choice(content: Any) -> Delivered | None:
    if content is None:
        return None
    if isinstance(content, Mapping):
        journal, reason = content.get("journal"), content.get("finish_reason")
        known = reason is None or reason in _FINISH_REASONS
        model_reason = cast("FinishReason | None", "stop" if reason == "tool_calls" else reason)
        if known and isinstance(journal, str):
            return Delivered(text=journal, finish_reason=model_reason)
        if known and isinstance(journal, list) and all(type(i) is int for i in journal):
            return Delivered(tokens=tuple(journal), finish_reason=model_reason)
    raise ProtocolError(
        f"resume.choices: {str(content)[:200]} is not a choice: it needs a journal of token ids or "
        "text, and a known finish_reason or null",
        param="resume",
    )


def _count(model: LoadedModel, delivered: Delivered) -> int:
    return len(delivered.tokens) or len(model.tokenizer.encode(delivered.text))

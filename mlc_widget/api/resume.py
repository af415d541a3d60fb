"""The arguments of `resume_chat_completion`, and what they ask a core for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from mlc_widget.api.core import ChunkSource, EngineCore
from mlc_widget.api.request_values import JSONDict, bad, boolean
from mlc_widget.api.request_values import stream_options as check_stream_options
from mlc_widget.api.requests import check_chat
from mlc_widget.api.resumable import ResumeResult
from mlc_widget.api.resumable_field import session_id as check_session_id


@dataclass(frozen=True, slots=True)
class Resume:
    """The arguments of `resume_chat_completion`, checked; use `read`.

    Attributes:
        session_id: The session.
        continues: Whether the answer goes on.
        streams: Whether its rest comes as a stream.
        request: The request as it was at first; empty if it was not given.
        include_usage: Whether the stream ends with a chunk about usage.
    """

    session_id: str
    continues: bool
    streams: bool
    request: JSONDict
    include_usage: bool

    @classmethod
    def read(
        cls, session: Any, continue_generation: Any, stream: Any, request: Mapping[str, Any]
    ) -> Self:
        """Check the arguments.

        Raises:
            BadRequestError: One of them is invalid.
        """
        continues = boolean("continue_generation", continue_generation)
        streams = boolean("stream", stream)
        if streams and not continues:
            raise bad("stream", stream, "it needs continue_generation=True.")
        given = {name: value for name, value in request.items() if value is not None}
        options = check_stream_options("stream_options", given.pop("stream_options", {}))
        return cls(
            check_session_id("session_id", session),
            continues,
            streams,
            check_chat(given) if given else {},
            include_usage=options.get("include_usage", False) or not streams,
        )

    async def result(self, core: EngineCore) -> ResumeResult:
        """What was recovered, after the rest if that was wanted; on the core's home loop."""
        if not self.continues:
            return await core.read_resumable_session(self.session_id)
        before, source = await self._resume(core)
        return await _whole(before, source)

    async def stream(self, core: EngineCore) -> ChunkSource:
        """Begin the rest; on the core's home loop."""
        return (await self._resume(core))[1]

    async def _resume(self, core: EngineCore) -> tuple[ResumeResult, ChunkSource]:
        return await core.resume_stream(
            self.session_id, self.request, include_usage=self.include_usage
        )


async def _whole(before: ResumeResult, source: ChunkSource) -> ResumeResult:
    """Wait for the rest of an answer, and return all of it."""
    text, reason = [before.recovered_text], None
    used: JSONDict = {}
    resumed: JSONDict = {}
    try:
        async for batch in source:
            for chunk in batch:
                resumed = chunk.get("resumed") or resumed
                used = chunk.get("usage") or used
                for choice in chunk["choices"]:
                    text.append(choice["delta"].get("content") or "")
                    reason = choice.get("finish_reason") or reason
    finally:
        await source.aclose()
    tokens = used["completion_tokens"]
    return replace(
        before,
        recovered_text="".join(text),
        emitted_tokens=tokens,
        processed_seq_len=used["prompt_tokens"] + tokens,
        replayed_tokens=resumed.get("tokens", 0),
        recovery_mode="token_replay" if resumed.get("exact", True) else "text_only",
        finish_reason=reason,
    )

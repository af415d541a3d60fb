"""The interface below the public engines: calls on an engine's home loop, with plain dicts.

`engine.core.DirectCore` runs models in this process; `proxy.core.KernelCore` sends the same calls
to a worker kernel. The public engines give one of them a typed interface, awaited
(`api.async_interface`) or blocking (`api.blocking_interface`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, Literal, Protocol, TypeAlias

from mlc_widget.api.engine_log import EngineLogRecord
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.statistics import EngineStatistics

RequestKind: TypeAlias = Literal["chat", "completion", "embedding"]
ChatOpts: TypeAlias = Mapping[str, Any]
ModelName: TypeAlias = str | PathLike[str]
"""A model's name or, also as a `pathlib.Path`, its path."""

TERMINATED: Final = "This engine was terminated; make a new one."
DROPPED: Final = (
    "This engine has ended because no variable referred to it any longer; make a new one, and "
    "keep it in a variable while you use it."
)
"""Why an engine has ended, for its `EngineTerminatedError`."""


class ChunkSource(Protocol):
    """Batches of chunks of one answer, in OpenAI's shape; an async generator is one."""

    def __aiter__(self) -> AsyncIterator[list[JSONDict]]:
        """Itself."""

    def __anext__(self) -> Awaitable[list[JSONDict]]:
        """The next batch, never an empty one."""

    async def aclose(self) -> None:
        """Stop the engine's work on the answer and wait until it has stopped. Idempotent."""


class EngineCore(Protocol):
    """All methods run on the core's home loop; none of them blocks it."""

    async def request(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        """Answer one request with the whole response, in OpenAI's shape."""

    async def open_stream(self, kind: RequestKind, request: JSONDict) -> ChunkSource:
        """Accept one streaming request; a bad request raises here, before the first chunk."""

    async def reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Load these models and unload all others. A newer load or `unload` cancels this one."""

    async def unload(self) -> None:
        """Unload all models and give their memory back."""

    async def interrupt_generate(self) -> None:
        """End all running requests with finish reason ``abort``."""

    async def abort(self, request_id: str) -> None:
        """End one request; an unknown id is ignored."""

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool, model_id: str | None
    ) -> int:
        """Append tokens to the model's raw context and sample the next one."""

    async def set_app_config(self, config: Mapping[str, Any] | None) -> None:
        """Set the names that `reload` knows."""

    async def set_log_level(self, level: str) -> None:
        """Set how much the engine logs."""

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""

    async def get_message(self, model_id: str | None = None) -> str:
        """The last generated message of a model."""

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """WebLLM's one line on prefill and decode speed."""

    async def metrics(self) -> JSONDict:
        """Counters since the engine was made."""

    async def statistics(self) -> EngineStatistics:
        """What the engine is doing, and what its worker has been through."""

    async def logs(self) -> list[EngineLogRecord]:
        """What has happened to the engine and its worker; also after its end."""

    async def list_models(self) -> list[JSONDict]:
        """The loaded models, as OpenAI's model objects."""

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions."""

    async def list_resumable_sessions(self) -> list[ResumableSession]:
        """The answers that were written to disk; see `api.resumable`."""

    async def read_resumable_session(self, session_id: str) -> ResumeResult:
        """What is on disk of an answer."""

    async def resume_stream(
        self, session_id: str, request: JSONDict, *, include_usage: bool = False
    ) -> tuple[ResumeResult, ChunkSource]:
        """Continue such an answer; returns what was recovered, and the chunks of the rest.

        `request` is empty, or the request as it was at first.
        """

    async def delete_resumable_session(self, session_id: str) -> None:
        """Delete a session; an unknown one is ignored."""

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; it is called on the home loop."""

    async def terminate(self) -> None:
        """End the engine for good. Idempotent."""

"""`MLCEngineInterface`: what every engine offers, wherever it computes.

`AsyncMLCEngine` and `AsyncKernelMLCEngine` are `AsyncMLCEngineInterface`s, `MLCEngine` and
`KernelMLCEngine` are `MLCEngineInterface`s, which block instead of being awaited. What the methods
mean and raise is told at `mlc_widget.api.engine_base.AsyncEngine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from mlc_widget.api.core import ChatOpts
from mlc_widget.api.metrics import EngineMetrics
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.resources import (
    AsyncChat,
    AsyncCompletions,
    AsyncEmbeddings,
    AsyncModels,
    Chat,
    Completions,
    Embeddings,
    Models,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


@runtime_checkable
class AsyncMLCEngineInterface(Protocol):
    """Every engine that is awaited."""

    chat: AsyncChat
    completions: AsyncCompletions
    embeddings: AsyncEmbeddings
    models: AsyncModels

    async def reload(
        self,
        model_id: str | Sequence[str],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """Load these models and unload all others."""

    async def unload(self) -> None:
        """Unload all models."""

    async def interrupt_generate(self) -> None:
        """End everything that generates now."""

    async def abort(self, request_id: str) -> None:
        """End one request."""

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""

    async def get_message(self, model_id: str | None = None) -> str:
        """The message generated last."""

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """Prefill and decode speed of the last answer."""

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool = False, model_id: str | None = None
    ) -> int:
        """Append raw tokens to the context and sample the next one."""

    async def metrics(self) -> EngineMetrics:
        """Counters since the engine was made."""

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions."""

    async def set_app_config(self, app_config: Mapping[str, Any] | None) -> None:
        """Set names for models."""

    async def set_log_level(self, level: str) -> None:
        """Set how much the engine logs."""

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set who hears of load progress."""

    def get_init_progress_callback(self) -> InitProgressCallback | None:
        """Who hears of load progress."""

    def openai_client(self, **options: Any) -> AsyncOpenAI:
        """An `openai.AsyncOpenAI` that this engine answers."""

    async def terminate(self) -> None:
        """End the engine for good."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, exc_type: Any, exc: Any, traceback: Any) -> None: ...


@runtime_checkable
class MLCEngineInterface(Protocol):
    """Every engine that blocks."""

    chat: Chat
    completions: Completions
    embeddings: Embeddings
    models: Models

    def reload(
        self,
        model_id: str | Sequence[str],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """Load these models and unload all others."""

    def unload(self) -> None:
        """Unload all models."""

    def interrupt_generate(self) -> None:
        """End everything that generates now."""

    def abort(self, request_id: str) -> None:
        """End one request."""

    def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""

    def get_message(self, model_id: str | None = None) -> str:
        """The message generated last."""

    def runtime_stats_text(self, model_id: str | None = None) -> str:
        """Prefill and decode speed of the last answer."""

    def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool = False, model_id: str | None = None
    ) -> int:
        """Append raw tokens to the context and sample the next one."""

    def metrics(self) -> EngineMetrics:
        """Counters since the engine was made."""

    def device_info(self) -> JSONDict:
        """Runtime, device and versions."""

    def set_app_config(self, app_config: Mapping[str, Any] | None) -> None:
        """Set names for models."""

    def set_log_level(self, level: str) -> None:
        """Set how much the engine logs."""

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set who hears of load progress."""

    def get_init_progress_callback(self) -> InitProgressCallback | None:
        """Who hears of load progress."""

    def openai_client(self, **options: Any) -> OpenAI:
        """An `openai.OpenAI` that this engine answers."""

    def terminate(self) -> None:
        """End the engine for good."""

    def __enter__(self) -> Self: ...

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None: ...


if TYPE_CHECKING:  # mypy checks that the engines are what this says
    from mlc_widget.api.engine_base import AsyncEngine, Engine

    def _awaited(engine: AsyncEngine[Any]) -> AsyncMLCEngineInterface:
        return engine

    def _blocking(engine: Engine[Any]) -> MLCEngineInterface:
        return engine

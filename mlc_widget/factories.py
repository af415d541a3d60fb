"""The factories: an engine with a model loaded, ready to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack, cast, overload

from mlc_widget.api.core import ChatOpts, ModelName
from mlc_widget.api.engine_options import ENGINE_DEFAULTS, EngineOptions, takes_options
from mlc_widget.api.linked_engine import LinkedEngine
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.request_values import bad
from mlc_widget.api.server_urls import looks_like_server
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.engine.engines import AsyncMLCEngine, MLCEngine
from mlc_widget.proxy.engines import AsyncKernelMLCEngine, KernelMLCEngine
from mlc_widget.proxy.options import WORKER_DEFAULTS, WorkerOptions
from mlc_widget.server_engine.options import SERVER_DEFAULTS, ServerOptions

if TYPE_CHECKING:  # it checks answers with pydantic, which takes a moment to import
    from mlc_widget.server_engine.engines import AsyncServerMLCEngine, ServerMLCEngine

_ChatOpts: TypeAlias = ChatOpts | Sequence[ChatOpts | None] | None
_Models: TypeAlias = ModelName | Sequence[ModelName]


class _Options(WorkerOptions, ServerOptions, total=False):
    """Those of a worker or, with the address of a server, those of a server."""


_DEFAULTS: Final[_Options] = {**WORKER_DEFAULTS, **SERVER_DEFAULTS}


@takes_options(EngineOptions, ENGINE_DEFAULTS)
@releases_locals
async def create_mlc_engine(
    model: _Models,
    *,
    chat_opts: _ChatOpts = None,
    logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
    **options: Unpack[EngineOptions],
) -> AsyncMLCEngine:
    """Make an engine that runs models in this process, and load a model into it.

    Args:
        model: One model or a list: a folder in MLC format or of safetensors, a ``.gguf`` file, a
            built-in name, ``HF://user/repo[@revision]``, ``HF://user/repo/file.gguf`` or
            ``PYPI://package/file.gguf``. A path may also be a `pathlib.Path`.
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
    model: _Models,
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


@overload
async def create_kernel_mlc_engine(
    source: str,
    *,
    model: _Models,
    show_progress: bool = ...,
    **options: Unpack[ServerOptions],
) -> AsyncServerMLCEngine: ...
@overload
async def create_kernel_mlc_engine(
    source: _Models,
    *,
    chat_opts: _ChatOpts = ...,
    show_progress: bool = ...,
    **options: Unpack[WorkerOptions],
) -> AsyncKernelMLCEngine: ...
@overload
async def create_kernel_mlc_engine(
    *,
    model: _Models,
    chat_opts: _ChatOpts = ...,
    show_progress: bool = ...,
    **options: Unpack[WorkerOptions],
) -> AsyncKernelMLCEngine: ...
@overload
async def create_kernel_mlc_engine(
    source: str,
    *,
    show_progress: bool = ...,
    **options: Unpack[ServerOptions],
) -> AsyncServerMLCEngine: ...
@takes_options(_Options, _DEFAULTS)
@releases_locals
async def create_kernel_mlc_engine(
    source: _Models | None = None,
    *,
    model: _Models | None = None,
    chat_opts: _ChatOpts = None,
    show_progress: bool = True,
    **options: Unpack[_Options],
) -> AsyncKernelMLCEngine | AsyncServerMLCEngine:
    """Start a worker kernel, load a model in it, and return the ready engine.

    In a notebook, a progress bar is shown meanwhile; the kernel stays free. With the address of a
    server, the engine uses that server's model, and no worker is started.

    Args:
        source: One model or a list: a folder in MLC format or of safetensors, a ``.gguf`` file, a
            built-in name, ``HF://user/repo[@revision]``, ``HF://user/repo/file.gguf`` or
            ``PYPI://package/file.gguf``. A path may also be a `pathlib.Path`. Or the address of a
            server of OpenAI's API, such as ``http://127.0.0.1:8000/v1``, or ``group://NAME`` for
            the one that serves a group of this machine's users.
        model: With the address of a server: the name of its model, or several; it may be left out
            if the server has only one. Otherwise another way to give `source`.
        chat_opts: For each model, overrides of its mlc-chat-config.json; not on a server.
        show_progress: Whether to show the progress bar, or in a script a line on stderr; if that is
            not a terminal, a few plain lines, and none for a load of some seconds.
        **options: See `WorkerOptions` or, on a server, `ServerOptions`.

    Raises:
        BadRequestError: an option is invalid.
        TypeError: an option does not exist, or not with this source.
        WorkerStartError: the worker did not start; the message ends with its last output.
        MLCEngineError: what `AsyncKernelMLCEngine.reload` or `AsyncServerMLCEngine.reload` raises.
            The engine is terminated then.
    """
    engine: AsyncKernelMLCEngine | AsyncServerMLCEngine
    if (url := _server_address(source, options)) is None:
        models = _given(source, model)
        engine = AsyncKernelMLCEngine(**cast("WorkerOptions", options))
    else:
        from mlc_widget.server_engine.engines import AsyncServerMLCEngine

        models = cast("_Models", model)  # a server may have one only
        engine = AsyncServerMLCEngine(url, **_of_server(options))
    shown = _progress(engine, show_progress)
    try:
        await engine.reload(models, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    finally:
        await asyncio.to_thread(shown)
    return engine


@overload
def kernel_mlc_engine(
    source: str,
    *,
    model: _Models,
    show_progress: bool = ...,
    **options: Unpack[ServerOptions],
) -> ServerMLCEngine: ...
@overload
def kernel_mlc_engine(
    source: _Models,
    *,
    chat_opts: _ChatOpts = ...,
    show_progress: bool = ...,
    **options: Unpack[WorkerOptions],
) -> KernelMLCEngine: ...
@overload
def kernel_mlc_engine(
    *,
    model: _Models,
    chat_opts: _ChatOpts = ...,
    show_progress: bool = ...,
    **options: Unpack[WorkerOptions],
) -> KernelMLCEngine: ...
@overload
def kernel_mlc_engine(
    source: str,
    *,
    show_progress: bool = ...,
    **options: Unpack[ServerOptions],
) -> ServerMLCEngine: ...
@takes_options(_Options, _DEFAULTS)
@releases_locals
def kernel_mlc_engine(
    source: _Models | None = None,
    *,
    model: _Models | None = None,
    chat_opts: _ChatOpts = None,
    show_progress: bool = True,
    **options: Unpack[_Options],
) -> KernelMLCEngine | ServerMLCEngine:
    """As `create_kernel_mlc_engine`, blocking the calling thread; so do the engine's methods."""
    engine: KernelMLCEngine | ServerMLCEngine
    if (url := _server_address(source, options)) is None:
        models = _given(source, model)
        engine = KernelMLCEngine(**cast("WorkerOptions", options))
    else:
        from mlc_widget.server_engine.engines import ServerMLCEngine

        models = cast("_Models", model)
        engine = ServerMLCEngine(url, **_of_server(options))
    shown = _progress(engine, show_progress)
    try:
        engine.reload(models, chat_opts)
    except BaseException:
        engine.terminate()
        raise
    finally:
        shown()
    return engine


def _server_address(source: Any, options: Mapping[str, Any]) -> str | None:
    """The address of a server, if that is what the source is.

    Raises:
        BadRequestError: Source and runtime contradict each other.
    """
    runtime = options.get("runtime", "auto")
    if looks_like_server(source):
        if runtime not in ("auto", "server"):
            raise bad("runtime", runtime, f"{source} is a server: leave the runtime out.")
        return str(source)
    if runtime == "server":
        raise bad("runtime", runtime, "give a server's address, such as http://127.0.0.1:8000/v1.")
    return None


def _of_server(options: Mapping[str, Any]) -> ServerOptions:
    """The options of a server engine; it refuses what it does not know."""
    return cast("ServerOptions", {k: v for k, v in options.items() if k != "runtime"})


def _given(source: _Models | None, model: _Models | None) -> _Models:
    """The models to load, which are given in one of two ways.

    Raises:
        TypeError: They are given in neither or in both.
    """
    if source is not None and model is not None:
        raise TypeError(
            f"{source!r} is not the address of a server, such as http://127.0.0.1:8000/v1: give "
            "either it or `model`."
        )
    models = source if model is None else model
    if models is None:
        raise TypeError("give a model, such as 'demo'.")
    return models


def _progress(engine: LinkedEngine, wanted: bool) -> Callable[[], object]:
    """Show the load's progress; what it returns is called once the load has ended."""
    if not wanted:
        return lambda: None
    from mlc_widget.widget.load import display_load_progress

    return display_load_progress(engine, raised=True)

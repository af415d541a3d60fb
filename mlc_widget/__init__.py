"""Local LLMs in Jupyter that never block the notebook.

Everything that is public is here. Importing this package is cheap; what each name needs is imported
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlc_widget._version import __version__
from mlc_widget.api.table.progress_display import register_progress_display as _register

if TYPE_CHECKING:
    from mlc_widget.api.async_interface import AsyncMLCEngineInterface
    from mlc_widget.api.blocking_interface import MLCEngineInterface
    from mlc_widget.api.engine_link import EngineLink, EngineSnapshot, FailedLoad, Hang
    from mlc_widget.api.engine_log import EngineLogRecord
    from mlc_widget.api.engine_options import EngineOptions
    from mlc_widget.api.errors import (
        BadRequestError,
        ContextLengthExceededError,
        EngineDeadError,
        EngineForkedError,
        EngineTerminatedError,
        InsufficientMemoryError,
        InternalEngineError,
        LoadCancelledError,
        MCPServerError,
        MLCEngineError,
        ModelDownloadError,
        ModelError,
        ModelFormatError,
        ModelNotFoundError,
        ModelNotLoadedError,
        ProtocolError,
        RuntimeUnavailableError,
        ServerError,
        UnsupportedFieldError,
        UnsupportedModelError,
        WorkerStartError,
    )
    from mlc_widget.api.logit_processor import LogitProcessor
    from mlc_widget.api.metrics import EngineMetrics
    from mlc_widget.api.progress import InitProgressReport
    from mlc_widget.api.resumable import ResumableSession, ResumeResult
    from mlc_widget.api.serving.server import EngineServer
    from mlc_widget.api.statistics import EngineStatistics
    from mlc_widget.api.streams import AsyncStream, Stream
    from mlc_widget.api.table.evaluation import Evaluation
    from mlc_widget.api.table.report import MapReport, MapRow
    from mlc_widget.engine.engines import AsyncMLCEngine, MLCEngine
    from mlc_widget.factories import (
        create_kernel_mlc_engine,
        create_mlc_engine,
        kernel_mlc_engine,
        mlc_engine,
    )
    from mlc_widget.magics import load_ipython_extension, unload_ipython_extension
    from mlc_widget.mcp_client import MCPServer, mcp
    from mlc_widget.proxy.engines import AsyncKernelMLCEngine, KernelMLCEngine
    from mlc_widget.proxy.options import WorkerOptions
    from mlc_widget.server_engine.engines import AsyncServerMLCEngine, ServerMLCEngine
    from mlc_widget.server_engine.options import ServerOptions
    from mlc_widget.widget import ChatWidget, CompareWidget, LoadProgress, Reply
    from mlc_widget.worker.handler import KernelMLCEngineHandler

__all__ = [
    "AsyncKernelMLCEngine",
    "AsyncMLCEngine",
    "AsyncMLCEngineInterface",
    "AsyncServerMLCEngine",
    "AsyncStream",
    "BadRequestError",
    "ChatWidget",
    "CompareWidget",
    "ContextLengthExceededError",
    "EngineDeadError",
    "EngineForkedError",
    "EngineLink",
    "EngineLogRecord",
    "EngineMetrics",
    "EngineOptions",
    "EngineServer",
    "EngineSnapshot",
    "EngineStatistics",
    "EngineTerminatedError",
    "Evaluation",
    "FailedLoad",
    "Hang",
    "InitProgressReport",
    "InsufficientMemoryError",
    "InternalEngineError",
    "KernelMLCEngine",
    "KernelMLCEngineHandler",
    "LoadCancelledError",
    "LoadProgress",
    "LogitProcessor",
    "MCPServer",
    "MCPServerError",
    "MLCEngine",
    "MLCEngineError",
    "MLCEngineInterface",
    "MapReport",
    "MapRow",
    "ModelDownloadError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "ModelNotLoadedError",
    "ProtocolError",
    "Reply",
    "ResumableSession",
    "ResumeResult",
    "RuntimeUnavailableError",
    "ServerError",
    "ServerMLCEngine",
    "ServerOptions",
    "Stream",
    "UnsupportedFieldError",
    "UnsupportedModelError",
    "WorkerOptions",
    "WorkerStartError",
    "__version__",
    "create_kernel_mlc_engine",
    "create_mlc_engine",
    "kernel_mlc_engine",
    "load_ipython_extension",
    "mcp",
    "mlc_engine",
    "unload_ipython_extension",
]

_HOMES = {
    "AsyncKernelMLCEngine": "mlc_widget.proxy.engines",
    "AsyncMLCEngine": "mlc_widget.engine.engines",
    "AsyncServerMLCEngine": "mlc_widget.server_engine.engines",
    "AsyncMLCEngineInterface": "mlc_widget.api.async_interface",
    "AsyncStream": "mlc_widget.api.streams",
    "BadRequestError": "mlc_widget.api.errors",
    "ChatWidget": "mlc_widget.widget",
    "CompareWidget": "mlc_widget.widget",
    "ContextLengthExceededError": "mlc_widget.api.errors",
    "EngineDeadError": "mlc_widget.api.errors",
    "EngineForkedError": "mlc_widget.api.errors",
    "EngineLink": "mlc_widget.api.engine_link",
    "EngineMetrics": "mlc_widget.api.metrics",
    "EngineLogRecord": "mlc_widget.api.engine_log",
    "EngineOptions": "mlc_widget.api.engine_options",
    "EngineServer": "mlc_widget.api.serving.server",
    "EngineSnapshot": "mlc_widget.api.engine_link",
    "EngineStatistics": "mlc_widget.api.statistics",
    "EngineTerminatedError": "mlc_widget.api.errors",
    "Evaluation": "mlc_widget.api.table.evaluation",
    "FailedLoad": "mlc_widget.api.engine_link",
    "Hang": "mlc_widget.api.engine_link",
    "InitProgressReport": "mlc_widget.api.progress",
    "InsufficientMemoryError": "mlc_widget.api.errors",
    "InternalEngineError": "mlc_widget.api.errors",
    "KernelMLCEngine": "mlc_widget.proxy.engines",
    "KernelMLCEngineHandler": "mlc_widget.worker.handler",
    "LoadCancelledError": "mlc_widget.api.errors",
    "LoadProgress": "mlc_widget.widget",
    "LogitProcessor": "mlc_widget.api.logit_processor",
    "MCPServer": "mlc_widget.mcp_client",
    "MCPServerError": "mlc_widget.api.errors",
    "MLCEngine": "mlc_widget.engine.engines",
    "MLCEngineError": "mlc_widget.api.errors",
    "MLCEngineInterface": "mlc_widget.api.blocking_interface",
    "MapReport": "mlc_widget.api.table.report",
    "MapRow": "mlc_widget.api.table.report",
    "ModelDownloadError": "mlc_widget.api.errors",
    "ModelError": "mlc_widget.api.errors",
    "ModelFormatError": "mlc_widget.api.errors",
    "ModelNotFoundError": "mlc_widget.api.errors",
    "ModelNotLoadedError": "mlc_widget.api.errors",
    "ProtocolError": "mlc_widget.api.errors",
    "Reply": "mlc_widget.widget",
    "RuntimeUnavailableError": "mlc_widget.api.errors",
    "ResumableSession": "mlc_widget.api.resumable",
    "ResumeResult": "mlc_widget.api.resumable",
    "ServerError": "mlc_widget.api.errors",
    "ServerMLCEngine": "mlc_widget.server_engine.engines",
    "ServerOptions": "mlc_widget.server_engine.options",
    "Stream": "mlc_widget.api.streams",
    "UnsupportedFieldError": "mlc_widget.api.errors",
    "UnsupportedModelError": "mlc_widget.api.errors",
    "WorkerOptions": "mlc_widget.proxy.options",
    "WorkerStartError": "mlc_widget.api.errors",
    "create_kernel_mlc_engine": "mlc_widget.factories",
    "create_mlc_engine": "mlc_widget.factories",
    "kernel_mlc_engine": "mlc_widget.factories",
    "load_ipython_extension": "mlc_widget.magics",
    "mcp": "mlc_widget.mcp_client",
    "mlc_engine": "mlc_widget.factories",
    "unload_ipython_extension": "mlc_widget.magics",
}


def _show_map_progress(*args: Any) -> Any:
    """`display_map_progress`, imported when a map begins."""
    return import_module("mlc_widget.widget.map_progress").display_map_progress(*args)


_register(_show_map_progress)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home != "mlc_widget.api.errors":
        import_module("mlc_widget.api.shadowed").check_packages()
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

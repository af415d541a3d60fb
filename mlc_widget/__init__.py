"""Local LLMs in Jupyter that never block the notebook.

Importing this package is cheap; what each name needs is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlc_widget._version import __version__

if TYPE_CHECKING:
    from mlc_widget.api.progress import InitProgressReport
    from mlc_widget.engine.engines import AsyncMLCEngine, MLCEngine
    from mlc_widget.factories import create_kernel_mlc_engine, create_mlc_engine
    from mlc_widget.magics import load_ipython_extension, unload_ipython_extension
    from mlc_widget.proxy.engines import AsyncKernelMLCEngine, KernelMLCEngine
    from mlc_widget.widget import ChatWidget, LoadProgress

_HOMES = {
    "AsyncKernelMLCEngine": "mlc_widget.proxy.engines",
    "AsyncMLCEngine": "mlc_widget.engine.engines",
    "ChatWidget": "mlc_widget.widget",
    "InitProgressReport": "mlc_widget.api.progress",
    "KernelMLCEngine": "mlc_widget.proxy.engines",
    "LoadProgress": "mlc_widget.widget",
    "MLCEngine": "mlc_widget.engine.engines",
    "create_kernel_mlc_engine": "mlc_widget.factories",
    "create_mlc_engine": "mlc_widget.factories",
    "load_ipython_extension": "mlc_widget.magics",
    "unload_ipython_extension": "mlc_widget.magics",
}

__all__ = [
    "AsyncKernelMLCEngine",
    "AsyncMLCEngine",
    "ChatWidget",
    "InitProgressReport",
    "KernelMLCEngine",
    "LoadProgress",
    "MLCEngine",
    "__version__",
    "create_kernel_mlc_engine",
    "create_mlc_engine",
    "load_ipython_extension",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

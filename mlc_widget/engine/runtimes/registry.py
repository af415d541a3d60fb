"""The runtimes by name. Importing this imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, cast

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.runtimes.base import ModelRuntime

_RUNTIMES: Final = {
    "tvm": ("mlc_widget.engine.runtimes.tvm.runtime", "TVMRuntime"),
    "scripted": ("mlc_widget.engine.runtimes.scripted", "ScriptedRuntime"),
}


def create_runtime(name: str, options: Mapping[str, Any]) -> ModelRuntime:
    """A new runtime, with no model in it yet.

    Raises:
        BadRequestError: an unknown runtime, or an unknown option for it.
        RuntimeUnavailableError: its package is missing.
    """
    try:
        module, factory = _RUNTIMES["tvm" if name == "auto" else name]
    except KeyError:
        raise BadRequestError(
            f"runtime = {name!r}: give one of auto, {', '.join(_RUNTIMES)}.", param="runtime"
        ) from None
    return cast("ModelRuntime", getattr(import_module(module), factory)(options))

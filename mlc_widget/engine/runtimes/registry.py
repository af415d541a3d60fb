"""The runtimes by name. Importing this imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module, metadata
from typing import Any, Final, cast

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.engine.runtimes.base import ModelRuntime

_RUNTIMES: Final = {
    "mlc_llm": ("mlc_widget.engine.runtimes.mlc_llm.runtime", "MLCLLMRuntime"),
    "tvm": ("mlc_widget.engine.runtimes.tvm.runtime", "TVMRuntime"),
    "scripted": ("mlc_widget.engine.runtimes.scripted", "ScriptedRuntime"),
}

_OWN_TVM: Final = "0.27."  # as in pyproject.toml


def create_runtime(name: str, options: Mapping[str, Any]) -> ModelRuntime:
    """A new runtime, with no model in it yet.

    Raises:
        BadRequestError: an unknown runtime, or an unknown option for it.
        RuntimeUnavailableError: its package is missing.
    """
    try:
        module, factory = _RUNTIMES[choose_runtime(options) if name == "auto" else name]
    except KeyError:
        raise BadRequestError(
            f"runtime = {name!r}: give one of auto, {', '.join(_RUNTIMES)}.", param="runtime"
        ) from None
    return cast("ModelRuntime", getattr(import_module(module), factory)(options))


def choose_runtime(options: Mapping[str, Any]) -> str:
    """The runtime that ``auto`` means here: mlc_llm if it and a GPU for it are there, else tvm.

    Neither is imported for that. A device that the options name decides, too.

    Raises:
        RuntimeUnavailableError: neither can run here.
    """
    from mlc_widget.engine.runtimes.mlc_llm import devices

    device = options.get("device") or "auto"
    wants_cpu = str(device).partition(":")[0] == "cpu"
    gpu = None
    if devices.installed() and not wants_cpu and not devices.built_for_cpu_only():
        gpu = devices.find_gpu() if device == "auto" else str(device)
    if gpu is not None:
        return "mlc_llm"
    if _has_own_tvm():
        return "tvm"
    if devices.installed():
        raise RuntimeUnavailableError(
            "mlc_llm is installed here but finds no GPU that it supports, and the tvm runtime, "
            "which runs models on the CPU, is not installed. Install it in its own environment "
            '(`python -m pip install "mlc-widget[tvm]"`) and name its interpreter with python=, '
            "or ask for runtime='mlc_llm' with device='cpu', which is slow."
        )
    raise RuntimeUnavailableError(
        "No runtime is installed here. On a CPU: `python -m pip install "
        f'"mlc-widget[tvm]"`. On a GPU: {devices.INSTALL_HINT}'
    )


def _has_own_tvm() -> bool:
    """Whether the tvm runtime's TVM is here: mlc_llm comes with another one."""
    try:
        return metadata.version("apache-tvm").startswith(_OWN_TVM)
    except metadata.PackageNotFoundError:
        return False

"""Gets a model's compiled code from the cache, or compiles it with TVM and caches it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlc_widget.engine.runtimes.tvm.architectures import Architecture
from mlc_widget.engine.runtimes.tvm.cache import CompileCache
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.quantization import GGML, Quantization

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.compile import Program

compiling = threading.Lock()
"""Held while TVM compiles, as its graph builder is shared by the whole process."""


def code_key(
    program: Program, quantization: Quantization, architecture: Architecture
) -> dict[str, Any]:
    """Everything on which the compiled code of a program depends."""
    return {
        "target": dataclasses.asdict(program.target),
        "kv_dtype": program.kv_dtype,
        "quantization": quantization.name,
        "parameters": [[n, p.record()] for n, p in program.parameters]
        if quantization is GGML
        else None,
        "architecture": [type(architecture).__name__, architecture.compiled_from()],
    }


def executable_of(
    key: Any,
    program: Callable[[], Program],
    options: TVMOptions,
    progress: Callable[[Any, float, str], None],
) -> Any:
    """Get the executable of a program, as a module.

    Args:
        key: The program's `code_key`.
        program: Returns the program; called if it must be compiled.
        options: The runtime's options, which say where the cache is.
        progress: Called with reports; an exception from it ends the work.
    """
    cache = CompileCache(key, options.cache_dir)
    progress("compile", 0.0, "Looking for compiled code")
    executable = cache.load()
    if executable is not None:
        return executable
    # After waiting for another compilation, the code may be in the cache.
    while not compiling.acquire(timeout=0.1):
        progress("compile", 0.0, "Waiting for another compilation")
    try:
        executable = cache.load()
        if executable is not None:
            return executable
        progress("compile", 0.1, "Compiling: building the graph")
        from mlc_widget.engine.runtimes.tvm.compile import compile_module, trace

        made = program()
        module = trace(made)
        progress("compile", 0.4, "Compiling: generating code for this machine")
        compiled = compile_module(module, made.target)
        progress("compile", 0.95, "Compiling: writing to the cache")
        executable = cache.store(compiled)
    finally:
        compiling.release()
    progress("compile", 1.0, "Compiled")
    return executable

"""A model's compiled code: found in the cache, or made by TVM's compiler and put there."""

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
"""Held while TVM compiles: its graph builder is one for the process."""


def code_key(
    program: Program, quantization: Quantization, architecture: Architecture
) -> dict[str, Any]:
    """What the compiled code of a program depends on."""
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
    *,
    cached: bool = True,
) -> Any:
    """The executable of a program, as a module.

    Args:
        key: The program's `code_key`.
        program: Gives the program, if it must be compiled.
        options: Where the cache is.
        progress: Hears of it; what it raises ends the work.
        cached: Whether the cache keeps such code; a GPU's is kept kernel by kernel elsewhere.
    """
    cache = CompileCache(key, options.cache_dir)
    progress("compile", 0.0, "Looking for compiled code")
    executable = cache.load() if cached else None
    if executable is not None:
        return executable
    # Who waits here may find the code made meanwhile.
    while not compiling.acquire(timeout=0.1):
        progress("compile", 0.0, "Waiting for another compilation")
    try:
        executable = cache.load() if cached else None
        if executable is not None:
            return executable
        progress("compile", 0.1, "Compiling: building the graph")
        from mlc_widget.engine.runtimes.tvm.compile import compile_module, trace

        made = program()
        module = trace(made)
        progress("compile", 0.4, "Compiling: generating code for this machine")
        compiled = compile_module(module, made.target)
        if cached:
            progress("compile", 0.95, "Compiling: writing to the cache")
            executable = cache.store(compiled)
        else:
            executable = compiled.jit()
    finally:
        compiling.release()
    progress("compile", 1.0, "Compiled")
    return executable

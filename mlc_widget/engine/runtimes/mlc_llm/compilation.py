"""Finds a model's compiled library in mlc_llm's cache, or has it compiled, with progress."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    InternalEngineError,
    RuntimeUnavailableError,
    UnsupportedModelError,
)
from mlc_widget.engine.runtimes.mlc_llm import compilation_child
from mlc_widget.engine.system.child_process import run_child

_TAIL_LINES: Final = 15
_OVERRIDES: Final = {
    "context_window_size": "max_single_sequence_length",
    "prefill_chunk_size": "prefill_chunk_size",
    "sliding_window_size": "sliding_window_size",
    "attention_sink_size": "attention_sink_size",
    "tensor_parallel_shards": "tensor_parallel_shards",
    "pipeline_parallel_stages": "pipeline_parallel_stages",
    "max_batch_size": "max_num_sequence",
    "opt": "opt",
}
"""Maps the compiler's options to the fields of EngineConfig that they are taken from."""


async def model_library(
    folder: Path, device: str, engine_config: Mapping[str, Any], on_line: Callable[[str], None]
) -> str:
    """Return the path of a model's library, compiled now unless it is in mlc_llm's cache.

    Cancelling the task ends the compiler.

    Args:
        folder: The model's folder.
        device: The device to compile for, such as ``cuda:0``.
        engine_config: Checked fields of EngineConfig.
        on_line: Called with each line of mlc_llm's log, on this loop.

    Raises:
        RuntimeUnavailableError: mlc_llm cannot be imported, or may not compile (MLC_JIT_POLICY).
        UnsupportedModelError: The compiler does not know the model.
        InternalEngineError: The compiler failed; the message has the end of its log.
    """
    wanted = {
        "model": str(folder),
        "device": device,
        "overrides": {name: engine_config.get(field) for name, field in _OVERRIDES.items()},
    }
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    outcome: dict[str, Any] = {}

    def take(line: str) -> None:
        tail.append(line)
        on_line(line)

    await run_child(compilation_child.__name__, wanted, outcome.update, take)
    if "library" not in outcome:
        raise _failure(folder, list(tail))
    return str(outcome["library"])


def _failure(folder: Path, tail: list[str]) -> Exception:
    log = "\n".join(f"  {line}" for line in tail)
    text = "\n".join(tail)
    if "No module named" in text or "ImportError" in text:
        return RuntimeUnavailableError(
            f"mlc_llm cannot be imported in {sys.executable}. Its last output:\n{log}"
        )
    if "JIT is disabled" in text:
        return RuntimeUnavailableError(
            "MLC_JIT_POLICY forbids compiling, and there is no compiled library in mlc_llm's "
            f"cache: set MLC_JIT_POLICY=ON, or give model_lib. Its last output:\n{log}"
        )
    if "KeyError" in text or "Unsupported" in text or "not supported" in text:
        return UnsupportedModelError(
            f"mlc_llm's compiler does not know the model in {folder}. Its last output:\n{log}"
        )
    return InternalEngineError(f"mlc_llm's compiler failed. Its last output:\n{log}")

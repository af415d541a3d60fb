"""Loads on a GPU: from the caches, in a fresh worker, to the first token."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._kernel_models import SHAPES, write_mlc
from benchmarks._serving_model import complete

LOADS = (("Llama-3.2-1B", "q0f16", 3.0), ("Llama-3.2-1B", "q4f16_1", 3.0),
         ("Llama-3.1-8B", "q4f16_1", 6.0))  # fmt: skip
"""The shapes, their quantization, and the goal in seconds."""
ROUNDS = 3


class Loads:
    """Folders of models in a folder, and the caches beside them.

    Args:
        root: The folder; its file system needs 20 GB.
        device: The device to load on.
    """

    def __init__(self, root: Path, device: str = "cuda") -> None:
        self._root, self._device = root, device

    def write(self, name: str, quantization: str) -> None:
        """Write a model's folder, and load it once, which fills the caches."""
        folder = self._folder(name, quantization)
        write_mlc(name, folder, quantization)
        complete(folder, SHAPES[name]["vocab_size"])
        asyncio.run(self._first_token(name, quantization, self._copied))

    def measure(self, name: str, quantization: str, goal: float) -> float:
        """Print how long the loads take, and when their phases begin; the median seconds."""
        runs = [asyncio.run(self._first_token(name, quantization)) for _ in range(ROUNDS)]
        seconds = [run["first token"] for run in runs]
        median = statistics.median(seconds)
        phases = runs[seconds.index(median)]
        told = ", ".join(f"{phase} {at:.2f}" for phase, at in phases.items())
        print(
            f"{name} {quantization}: first token {median:.2f} s after a worker's start from the "
            f"caches ({min(seconds):.2f} to {max(seconds):.2f}; goal {goal:g}); "
            f"begins of phases: {told}",
            flush=True,
        )
        return median

    def _folder(self, name: str, quantization: str) -> Path:
        return self._root / f"{name}-{quantization}"

    def _cache(self, name: str, quantization: str) -> Path:
        return self._root / f"{name}-{quantization}-cache"

    async def _first_token(
        self, name: str, quantization: str, after: Callable[[Path], Any] | None = None
    ) -> dict[str, float]:
        """Seconds from the call that starts a worker to each first report, by its text."""
        from mlc_widget import AsyncKernelMLCEngine

        cache = self._cache(name, quantization)
        begins: dict[str, float] = {}
        began = time.perf_counter()
        engine = AsyncKernelMLCEngine(
            runtime="tvm",
            runtime_options={"device": self._device, "cache_dir": str(cache)},
            init_progress_callback=lambda report: begins.setdefault(
                report.text, time.perf_counter() - began
            ),
        )
        try:
            await engine.reload(str(self._folder(name, quantization)))
            begins["loaded"] = time.perf_counter() - began
            await engine.completions.create(prompt=[5, 6, 7], max_tokens=1, temperature=0.0)
            begins["first token"] = time.perf_counter() - began
            if after is not None:
                await asyncio.to_thread(after, cache)
        finally:
            await engine.terminate()
        return begins

    def _copied(self, cache: Path) -> None:
        """Wait until the copy of the weights is written, as it is in the background."""
        deadline = time.monotonic() + 120
        while not list(cache.rglob("*.packed")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no copy of the weights is in {cache}")
            time.sleep(0.1)

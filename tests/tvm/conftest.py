from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

from mlc_widget.engine.runtimes.base import GenerationEvent, ModelSource, Sampling
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
NAMES = sorted(p.name for p in GOLDEN.iterdir())


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def source_of(folder: Path, **changes: Any) -> ModelSource:
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    config.update(changes)
    return ModelSource(folder.name, folder, config, Tokenizer.from_folder(folder))


class Reports:
    """A LoadReporter that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, float, str, int | None, int | None]] = []

    def __call__(
        self,
        phase: str,
        fraction: float,
        text: str,
        *,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        self.all.append((phase, fraction, text, bytes_done, bytes_total))

    def texts(self) -> list[str]:
        return [r[2] for r in self.all]


Load = Callable[..., Any]


@pytest.fixture
async def load(cache_dir: Path) -> AsyncIterator[Load]:
    """Loads a golden model, by name, with options; unloads it after the test."""
    runtimes: list[TVMRuntime] = []

    async def loader(name: str, *, changes: dict[str, Any] | None = None, **options: Any):
        runtime = TVMRuntime({"cache_dir": cache_dir, **options})
        runtimes.append(runtime)
        await runtime.load(source_of(GOLDEN / name, **(changes or {})), Reports())
        return runtime

    yield loader
    for runtime in runtimes:
        await runtime.unload()


def greedy(**changes: Any) -> Sampling:
    return Sampling(**{"max_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 0, **changes})


async def collect(
    runtime: TVMRuntime, prompt: list[int], sampling: Sampling, request_id: str = "r"
) -> list[GenerationEvent]:
    return [e async for e in runtime.generate(prompt, sampling, request_id=request_id)]


def ids_of(events: list[GenerationEvent]) -> list[int]:
    return [i for e in events for i in e.token_ids]


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(e.text for e in events)

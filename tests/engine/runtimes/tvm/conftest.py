from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.engine.runtimes.tvm.cuda import target as cuda

if cuda.is_there():  # TVM finds CUDA only where this comes before it is imported
    with contextlib.suppress(RuntimeUnavailableError):
        cuda.prepare()
pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

from mlc_widget.engine.runtimes.base import GenerationEvent, ModelSource, Sampling
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
from mlc_widget.engine.runtimes.tvm.options import CPUS, TVMOptions
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.runtimes.tvm.target import host_target
from mlc_widget.engine.store.tensor_cache import TensorCache
from mlc_widget.engine.text.tokenizer import Tokenizer

from ....waiting import until

needs_gpu = pytest.mark.skipif(not cuda.is_there(), reason="needs an NVIDIA GPU")

ROOT = Path(__file__).parents[4]
GOLDEN = ROOT / "tests" / "fixtures" / "golden"
NAMES = sorted(p.name for p in GOLDEN.iterdir())
QUICK = {"gqa-tied-q4f32_1", "odd-sizes-q0f32"}
"""Each of these models is compiled, so `make test` takes what differs most, and `make soak` all.

Of those with a head for each query, and with weights of their own for the logits, there are several
in test_families.py.
"""
MODELS = [pytest.param(n, marks=() if n in QUICK else pytest.mark.soak) for n in NAMES]
DEADLINE = 60.0


def source_of(folder: Path, **changes: Any) -> ModelSource:
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    config.update({"numerics": "faithful"} | changes)
    return ModelSource(
        folder.name,
        folder,
        config,
        Tokenizer.from_folder(folder),
        partial(TensorCache.from_folder, folder),
    )


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a golden folder that a test may damage."""
    return lambda name: Path(shutil.copytree(GOLDEN / name, tmp_path / name))


class Reports:
    """A LoadReporter that remembers."""

    def __init__(self, on: Callable[[str, str], None] = lambda phase, text: None) -> None:
        self.all: list[tuple[str, float, str, int | None, int | None]] = []
        self._on = on

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
        self._on(phase, text)

    @property
    def compiled(self) -> bool:
        return any("Compiling" in text for _, _, text, _, _ in self.all)


Load = Callable[..., Awaitable[TVMRuntime]]


@pytest.fixture
async def load(cache_dir: Path) -> AsyncIterator[Load]:
    """Loads a golden model by name, with options; unloads it after the test."""
    runtimes: list[TVMRuntime] = []

    async def loader(
        name: str, *, changes: dict[str, Any] | None = None, **options: Any
    ) -> TVMRuntime:
        runtime = TVMRuntime({"cache_dir": cache_dir, **options})
        runtimes.append(runtime)
        await runtime.load(source_of(GOLDEN / name, **(changes or {})), Reports())
        return runtime

    yield loader
    for runtime in runtimes:
        await runtime.unload()


def cpus() -> list[str]:
    """The kinds of CPUs that this machine supports."""
    can = []
    for cpu in CPUS:
        try:
            host_target(cpu)
        except BadRequestError:
            continue
        can.append(cpu)
    return can


def executor_for(
    name: str | Path,
    cache_dir: Path,
    target: Any = None,
    numerics: str = "faithful",
    **options: Any,
) -> Executor:
    """The lowest part of a golden model, or of that in a folder, to be run on this thread."""
    executor, _ = make_executor(
        source_of(GOLDEN / name, numerics=numerics),
        TVMOptions.parse({"cache_dir": cache_dir, **options}),
        Progress(Reports(), threading.Event()),
        target,
    )
    executor.prepare()
    return executor


@contextlib.contextmanager
def held_after(runtime: TVMRuntime, steps: int) -> Iterator[Callable[[], None]]:
    """Hold a model before any step beyond the next few; yields what lets it go on."""
    executor = scheduler_of(runtime).executor
    run, left, going = executor.run, steps, threading.Event()

    def step(spans: Sequence[Span]) -> Any:
        nonlocal left
        left -= 1
        assert left >= 0 or going.wait(DEADLINE)
        return run(spans)

    executor.run = step  # type: ignore[method-assign]
    try:
        yield going.set
    finally:
        going.set()
        vars(executor).pop("run")


async def until_submitted(runtime: TVMRuntime, requests: int) -> None:
    """Wait until the scheduler of a model that is held has so many requests."""
    s = scheduler_of(runtime)
    await until(lambda: len(s._submitted) + len(s._waiting) + len(s._running) >= requests)


class Stepper:
    """Runs sequences on an executor in any cut and any company, and collects all their logits."""

    def __init__(self, executor: Executor, pages: Sequence[int] | None = None) -> None:
        self.executor = executor
        self._free = list(range(executor.pages) if pages is None else pages)
        self._pages: dict[str, list[int]] = {}
        self._length: dict[str, int] = {}
        self.logits: dict[str, list[np.ndarray]] = {}

    def step(self, **tokens: Sequence[int]) -> None:
        spans = []
        for name, new in tokens.items():
            pages = self._pages.setdefault(name, [])
            start = self._length.get(name, 0)
            while len(pages) * self.executor.page_size < start + len(new):
                pages.append(self._free.pop(0))
            spans.append(Span(list(new), start, pages, range(len(new))))
            self._length[name] = start + len(new)
        rows = self.executor.run(spans).copy()
        for name, new in tokens.items():
            self.logits.setdefault(name, []).append(rows[: len(new)])
            rows = rows[len(new) :]

    def all(self, name: str) -> np.ndarray:
        return np.concatenate(self.logits[name])


def run_chunks(executor: Executor, tokens: Sequence[int], chunks: Sequence[int]) -> np.ndarray:
    """Logits of every position, the prompt cut as `chunks` says."""
    assert sum(chunks) == len(tokens)
    stepper, at = Stepper(executor), 0
    for n in chunks:
        stepper.step(a=tokens[at : at + n])
        at += n
    return stepper.all("a")


def run_in_a_batch(executor: Executor, tokens: Sequence[int]) -> np.ndarray:
    """Logits of every one of 84 positions, in six steps beside four other sequences."""
    rng = random.Random(0)
    stepper, at = Stepper(executor), 0
    for n in [17, 1, 1, 30, 2, 33]:
        others = {f"o{i}": [rng.randrange(60) for _ in range(rng.choice([1, 5]))] for i in range(4)}
        stepper.step(**others, a=tokens[at : at + n])
        at += n
    assert at == len(tokens)
    return stepper.all("a")


def golden_data(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "golden.npz") as data:
        return dict(data)


def greedy(**changes: Any) -> Sampling:
    return Sampling(**{"max_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 0, **changes})


async def collect(
    runtime: TVMRuntime, prompt: Sequence[int], sampling: Sampling, request_id: str = "r"
) -> list[GenerationEvent]:
    events = [e async for e in runtime.generate(prompt, sampling, request_id=request_id)]
    assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason is not None
    assert events[-1].stats is not None
    return events


def ids_of(events: Sequence[GenerationEvent]) -> list[int]:
    return [i for e in events for i in e.token_ids]


def text_of(events: Sequence[GenerationEvent]) -> str:
    return "".join(e.text for e in events)


def scheduler_of(runtime: TVMRuntime) -> Any:
    assert runtime._loaded is not None
    return runtime._loaded.scheduler


def assert_no_page_lost(runtime: TVMRuntime) -> None:
    scheduler = scheduler_of(runtime)
    assert scheduler.wait_idle(DEADLINE)
    scheduler.pool.check()
    assert scheduler.pool.held == 0

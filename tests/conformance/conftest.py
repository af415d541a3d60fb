"""One suite for every engine: direct and proxied, awaited and blocking.

By default on the tvm runtime and a tiny model. Another runtime runs it with, for example::

    pytest tests/conformance --runtime mlc_llm --runtime-options '{"model_lib": "…"}' \
        --model-folder FOLDER --worker-python /path/to/python --engines kernel
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine

from ..waiting import until

ENGINES = {
    "direct": MLCEngine,
    "direct-async": AsyncMLCEngine,
    "kernel": KernelMLCEngine,
    "kernel-async": AsyncKernelMLCEngine,
}


_QUICK = ("direct-async", "kernel")
"""What runs without ``--engines`` and outside of `make soak`: each interface and each core once.

tests/engine/runtimes/mlc_llm runs the suite on kernel-async.
"""


class Driver:
    """The four engines behind one awaited interface; blocking methods are called on a thread.

    Attributes:
        engine: The engine itself.
        model: The model's folder.
        fields: Optional request fields that the runtime honours.
        batch_invariant: What the runtime declares.
    """

    def __init__(self, engine: Any, model: str) -> None:
        self.engine = engine
        self.model = model
        self.awaited = isinstance(engine, AsyncMLCEngine | AsyncKernelMLCEngine)
        self.fields: frozenset[str] = frozenset()
        self.batch_invariant = False

    async def call(self, name: str, *args: Any, **params: Any) -> Any:
        """Call a method of the engine or, by a dotted name, of one of its resources."""
        method = self.engine
        for part in name.split("."):
            method = getattr(method, part)
        if self.awaited:
            return await method(*args, **params)
        return await asyncio.to_thread(method, *args, **params)

    async def chat(self, **params: Any) -> Any:
        return await self.call("chat.completions.create", **{"messages": HELLO, **params})

    async def complete(self, **params: Any) -> Any:
        return await self.call("completions.create", **{"prompt": "hello world", **params})

    async def text(self, **params: Any) -> str:
        return str((await self.chat(**params)).choices[0].message.content)

    async def stream(self, **params: Any) -> OpenStream:
        return OpenStream(self, await self.chat(stream=True, **params))

    async def stream_completion(self, **params: Any) -> OpenStream:
        return OpenStream(self, await self.complete(stream=True, **params))

    async def running(self) -> int:
        return int((await self.call("metrics"))["running_requests"])

    async def ready(self) -> None:
        """Load the model, as the previous test may have unloaded it."""
        models = await self.call("models.list")
        if [m.id for m in models] != [self.model]:
            await self.call("reload", self.model)
        info = await self.call("device_info")
        self.fields = frozenset(info["request_fields"])
        self.batch_invariant = bool(info["batch_invariant"])


class OpenStream:
    """A stream of either engine, read by ``async for``."""

    def __init__(self, driver: Driver, stream: Any) -> None:
        self._awaited = driver.awaited
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (chunk := await self.next()) is not None:
            yield chunk

    async def next(self) -> Any:
        if self._awaited:
            return await anext(self._stream, None)
        return await asyncio.to_thread(next, self._stream, None)

    async def all(self) -> list[Any]:
        return [chunk async for chunk in self]

    async def close(self) -> None:
        if self._awaited:
            await self._stream.aclose()
        else:
            await asyncio.to_thread(self._stream.close)


HELLO = [{"role": "user", "content": "Hello!"}]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loaded_driver" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("engines")
        names = [
            n if wanted or n in _QUICK else pytest.param(n, marks=pytest.mark.soak)
            for n in ENGINES
            if wanted in ("", n, n.split("-")[0])
        ]
        metafunc.parametrize("loaded_driver", names, indirect=True, scope="session")


def _make(name: str, config: pytest.Config) -> Any:
    options: dict[str, Any] = {
        "runtime": config.getoption("runtime"),
        "runtime_options": json.loads(config.getoption("runtime_options")),
    }
    if name.startswith("kernel"):
        options["python"] = config.getoption("worker_python") or None
    return ENGINES[name](**options)


@pytest.fixture(scope="session")
def model_folder(tiny_model: Path, pytestconfig: pytest.Config) -> str:
    if pytestconfig.getoption("runtime") == "tvm":
        pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
    return str(pytestconfig.getoption("model_folder") or tiny_model)


@pytest.fixture(scope="session")
def loaded_driver(request: pytest.FixtureRequest, model_folder: str) -> Iterator[Driver]:
    engine = _make(request.param, request.config)
    driver = Driver(engine, model_folder)
    asyncio.run(driver.ready())
    yield driver
    asyncio.run(driver.call("terminate"))


@pytest.fixture
async def driver(loaded_driver: Driver) -> Driver:
    """An engine with the model loaded and nothing running."""
    await loaded_driver.ready()
    await loaded_driver.call("interrupt_generate")

    async def at_rest() -> bool:
        return not await loaded_driver.running()

    await until(at_rest)  # what the test before left
    return loaded_driver


@pytest.fixture
async def fresh(
    loaded_driver: Driver, pytestconfig: pytest.Config, model_folder: str
) -> AsyncIterator[Callable[[], Awaitable[Driver]]]:
    """Makes another engine of the same class, for tests that end theirs."""
    made: list[Driver] = []

    async def make() -> Driver:
        name = next(n for n, c in ENGINES.items() if type(loaded_driver.engine) is c)
        driver = Driver(_make(name, pytestconfig), model_folder)
        made.append(driver)
        return driver

    yield make
    for driver in made:
        await driver.call("terminate")

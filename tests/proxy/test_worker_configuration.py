"""Registration on the worker's side: a handler class, and logit processors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine
from mlc_widget.api.errors import (
    BadRequestError,
    ProtocolError,
    RuntimeUnavailableError,
    WorkerStartError,
)

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}

_MODULE = """
from mlc_widget.worker.handler import KernelMLCEngineHandler

class Handler(KernelMLCEngineHandler):
    async def custom_request(self, name, message):
        if name == "count models":
            return {"models": len(await self.core.list_models()), "message": message}
        return await super().custom_request(name, message)

class Force:
    def __init__(self):
        self.seen = []

    def process_logits(self, logits):
        # Another token each time: what was sampled is heard of.
        logits[:] = -100.0
        logits[70 + len(self.seen)] = 100.0
        return logits

    def process_sampled_token(self, token_id):
        self.seen.append(token_id)
"""


@pytest.fixture
def site(tmp_path: Path, worker_module: Callable[[str, str], None]) -> Path:
    """A folder of modules that the worker can import, and this process cannot."""
    worker_module("worker_side", _MODULE)
    return tmp_path


async def test_a_handler_class_answers_custom_requests(kernel_engine: Make, site: Path) -> None:
    engine = await kernel_engine(handler="worker_side:Handler")
    answer = await engine.custom_request("count models", {"of": "mine"})
    assert answer == {"models": 1, "message": {"of": "mine"}}
    with pytest.raises(ProtocolError, match="unknown custom request 'nonsense'"):
        await engine.custom_request("nonsense")
    for message in (object(), float("nan"), "\ud83d", 10**5000):
        with pytest.raises(BadRequestError, match=r"message = .*give plain JSON values"):
            await engine.custom_request("count models", message)


async def test_a_handler_that_cannot_be_imported(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine(load=False, handler="no_such_module:Handler")
    with pytest.raises(WorkerStartError, match="handler = 'no_such_module:Handler'"):
        await engine.reload(str(tiny_model))


async def tokens(engine: Any) -> list[str]:
    answer = await engine.chat.completions.create(messages=HELLO, logprobs=True, **GREEDY)
    return [t.token for t in answer.choices[0].logprobs.content]


async def expected(tiny_model: Path) -> list[str]:
    from mlc_widget.engine.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(tiny_model)
    return [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in (70, 71, 72, 73)]


async def test_logit_processors_of_the_workers_configuration(
    kernel_engine: Make, tiny_model: Path, site: Path
) -> None:
    engine = await kernel_engine(
        runtime="tvm", logit_processors={str(tiny_model): "worker_side:Force"}
    )
    wanted = await expected(tiny_model)
    assert await tokens(engine) == wanted
    # Each generation has its own: the second begins anew.
    assert await tokens(engine) == wanted


async def test_logit_processors_of_installed_packages(
    kernel_engine: Make, tiny_model: Path, site: Path
) -> None:
    package = site / "side-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: side\nVersion: 1.0\n")
    entry = "[mlc_widget.logit_processors]\n* = worker_side:Force\n"
    (package / "entry_points.txt").write_text(entry)
    engine = await kernel_engine(runtime="tvm")
    assert await tokens(engine) == await expected(tiny_model)


async def test_logit_processors_of_a_direct_engine(tiny_model: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(_MODULE, namespace)
    async with AsyncMLCEngine(logit_processors={"*": namespace["Force"]}) as engine:
        await engine.reload(str(tiny_model))
        assert await tokens(engine) == await expected(tiny_model)


async def test_a_runtime_that_takes_no_logit_processors_says_so(
    kernel_engine: Make, tiny_model: Path, site: Path
) -> None:
    engine = await kernel_engine(load=False, logit_processors={"*": "worker_side:Force"})
    with pytest.raises(RuntimeUnavailableError, match="the scripted runtime does not support them"):
        await engine.reload(str(tiny_model))

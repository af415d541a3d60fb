"""A worker that violates the protocol is detected, and its messages are not trusted."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine, __version__
from mlc_widget.api.errors import ProtocolError

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]

_MODULE = """
import mlc_widget.worker.handler as handler

class Lossy(handler.KernelMLCEngineHandler):
    def __init__(self, core, send):
        def lossy(message):
            if message["kind"] != "chunks" or message["seq"] != 3:
                send(message)
        super().__init__(core, lossy)

class Future(handler.KernelMLCEngineHandler):
    async def _hello(self, request):
        handler.PROTOCOL_VERSION = 999
        return await super()._hello(request)

class Babbling(handler.KernelMLCEngineHandler):
    def __init__(self, core, send):
        def babble(message):
            for nonsense in ({}, {"kind": "chunks", "uuid": "nobody", "seq": 0, "content": []},
                             {"kind": "return", "uuid": "nobody"}, {"kind": "nonsense"},
                             {"kind": "initProgressCallback", "uuid": "", "content": {}}, message):
                send(nonsense)
        super().__init__(core, babble)
"""


@pytest.fixture
def broken(worker_module: Callable[[str, str], None]) -> None:
    """Handler classes that the worker can import."""
    worker_module("broken_handlers", _MODULE)


@pytest.mark.usefixtures("broken")
async def test_lost_chunks_are_an_error_and_never_silence(kernel_engine: Make) -> None:
    engine = await kernel_engine(handler="broken_handlers:Lossy", repeat=100, pace_s=0.02)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    with pytest.raises(ProtocolError, match="message 4 of its chunks arrived when 3 was expected"):
        async for _ in stream:
            pass
    while (await engine.metrics())["running_requests"]:  # the engine was told to stop
        pass
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.usefixtures("broken")
async def test_another_version_is_a_clear_error(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine(load=False, handler="broken_handlers:Future")
    with pytest.raises(ProtocolError) as caught:
        await engine.reload(str(tiny_model))
    assert caught.value.code == "version_mismatch"
    assert str(caught.value) == (
        f"The worker has mlc-widget {__version__} (protocol 999), the notebook {__version__} "
        f"(protocol 1). Where the worker runs: `{shlex.quote(sys.executable)} -m pip install "
        f"mlc-widget=={__version__}`."
    )
    assert engine.worker_pid is None


@pytest.mark.usefixtures("broken")
async def test_nonsense_from_a_worker_is_passed_over(
    kernel_engine: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await kernel_engine(handler="broken_handlers:Babbling")
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == "Hello from the script."
    assert "could not be read" in caplog.text


async def test_what_the_wire_cannot_carry(kernel_engine: Make) -> None:
    engine = await kernel_engine()
    core = engine._core
    with pytest.raises(ProtocolError, match="customRequest: its content is not plain JSON"):
        await asyncio.wrap_future(core.submit(core.custom_request("x", object())))
    # Three megabytes of text, but six times as many as JSON.
    with pytest.raises(
        ProtocolError, match=r"This request is \d+ bytes; the worker accepts at most"
    ):
        await engine.completions.create(prompt="\x00" * 3_000_000)
    assert (await engine.completions.create(prompt="x", max_tokens=1)).choices

"""What waits for a client that does not read is bounded in bytes, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from jupyter_client.session import Session

from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.engine.core import DirectCore
from mlc_widget.protocol.errors import encode_error
from mlc_widget.protocol.messages import (
    STREAM_BYTES,
    STREAM_INITS,
    STREAM_SHARE_BYTES,
    chunks_message,
)
from mlc_widget.proxy import stream_receiver
from mlc_widget.proxy.stream_receiver import STREAM_CREDIT, StreamReceiver
from mlc_widget.worker import stream_sender, unread_bytes
from mlc_widget.worker.client_streams import MAX_STREAMS
from mlc_widget.worker.stream_sender import StreamSender
from mlc_widget.worker.unread_bytes import MAX_CLIENT_BYTES, ClientBytes

from ..waiting import until

HELLO = [{"role": "user", "content": "Hello!"}]
KIB = 1024


def size_of(chunk: Any) -> int:
    return len(json.dumps(chunk, ensure_ascii=False).encode("utf-8", "surrogatepass"))


class Source:
    """Chunks without end, or up to an end or an error; counts those that were read."""

    def __init__(self, sizes: Any, ends_with: Exception | None = None) -> None:
        self.read = 0
        self._sizes = iter(sizes)
        self._ends_with = ends_with

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> list[Any]:
        await asyncio.sleep(0)
        size = next(self._sizes, None)
        if size is None:
            if self._ends_with is not None:
                raise self._ends_with
            raise StopAsyncIteration
        self.read += 1
        return [{"text": "x" * size, "number": self.read}]

    async def aclose(self) -> None:
        self._sizes = iter(())


class Wire:
    """A sender and a receiver, as a worker and a proxy have them, without a socket between."""

    def __init__(self, source: Source, client: ClientBytes, credit: int = STREAM_CREDIT) -> None:
        self.receiver = StreamReceiver(lambda n: self.sender.grant(n), lambda running: None)
        self.sender = StreamSender("u", source, credit, self._send, client)
        self.unread = 0
        self.receiver.take({"kind": "chunks", "seq": 0, "content": []})
        self._running = asyncio.create_task(self._run())

    def _send(self, message: dict[str, Any]) -> None:
        self.unread += sum(map(size_of, message["content"]))
        self.receiver.take(message, size_of(message))

    async def _run(self) -> None:
        try:
            await self.sender.run()
        except MLCEngineError as error:
            sent = {"kind": "throw", "content": str(error), "error": encode_error(error)}
            self.receiver.take(sent)
        else:
            self.receiver.take({"kind": "return"})

    @property
    def ended(self) -> bool:
        return self._running.done()

    async def read(self, pause: Callable[[], bool] = bool) -> AsyncIterator[Any]:
        async for batch in self.receiver:
            self.unread -= sum(map(size_of, batch))
            for chunk in batch:
                if pause():
                    await asyncio.sleep(0.001)
                yield chunk

    async def close(self) -> None:
        await self.sender.close()
        await self.receiver.aclose()
        await self._running


async def still(source: Source) -> None:
    """Wait until a source is not read any more."""
    while True:
        before = source.read
        for _ in range(50):
            await asyncio.sleep(0)
        if source.read == before:
            return


def forever(size: int) -> Any:
    while True:
        yield size


def test_the_bounds_fit() -> None:
    assert STREAM_SHARE_BYTES < STREAM_BYTES < MAX_CLIENT_BYTES
    assert MAX_STREAMS * STREAM_SHARE_BYTES <= MAX_CLIENT_BYTES


def alternative(token: bytes) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": -1e-07, "bytes": list(token)}


@pytest.mark.parametrize(
    "choice",
    [
        {"index": 0, "finish_reason": None, "logprobs": None, "delta": {"content": " word"}},
        {"text": '\0\x1f\x7f"\\\r\n\t/' * 99},
        {"text": "caf\xe9 \u6f22\u5b57 \ufffd \U0001f600\U0010ffff" * 99},
        {"logprobs": {"content": [{"top_logprobs": [alternative(b"\0\t\xf0")] * 20}] * 9}},
        {"delta": {"tool_calls": [{"function": {"arguments": '{"a": "\\u0000"}'}}]}},
    ],
    ids=["plain", "escapes", "beyond ASCII", "logprobs", "calls"],
)
def test_the_bytes_counted_are_those_on_the_wire(choice: dict[str, Any]) -> None:
    session = Session(key=b"")

    def wire(count: int) -> int:
        message = session.msg("comm_msg", {"data": chunks_message("u", 1, [chunk] * count)})
        return sum(map(len, session.serialize(message)))

    chunk = {"id": "chatcmpl-1", "choices": [choice], "journal": [151935, 0]}
    unread = ClientBytes()
    unread.stream(asyncio.Event()).add(chunk)
    # A second chunk makes the message longer by itself, a comma and perhaps a space.
    assert unread.total <= wire(2) - wire(1) <= unread.total + len(", ")


@pytest.mark.parametrize("size", [20 * KIB, 300 * KIB, STREAM_BYTES + 1])
async def test_one_unread_stream_is_bounded(size: int) -> None:
    source = Source(forever(size))
    wire = Wire(source, ClientBytes())
    await still(source)
    assert STREAM_BYTES <= wire.unread < STREAM_BYTES + size + KIB
    assert not wire.ended
    await wire.close()


@pytest.mark.parametrize("size", [5 * KIB, 100 * KIB])
async def test_all_unread_streams_of_a_client_are_bounded(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread_bytes, "MAX_CLIENT_BYTES", 20 * STREAM_SHARE_BYTES)
    client = ClientBytes()
    sources = [Source(forever(size)) for _ in range(40)]
    wires = [Wire(source, client) for source in sources]
    for source in sources:
        await still(source)
    unread = sum(wire.unread for wire in wires)
    assert client.total <= unread
    assert unread < 60 * (STREAM_SHARE_BYTES + size + KIB)
    # Another stream of the client, which is read, goes on beside them; so does another client.
    for other in (client, ClientBytes()):
        read = Wire(Source([size] * 200), other)
        assert [c["number"] async for c in read.read()] == list(range(1, 201))
        assert read.ended
    # When one of the others is left, there is room for more.
    before = sum(source.read for source in sources)
    for wire in wires[:30]:
        await wire.close()
    for source in sources[30:]:
        await still(source)
    assert sum(source.read for source in sources) > before
    for wire in wires[30:]:
        await wire.close()
    assert client.total == 0


@pytest.mark.parametrize("error", [None, ProtocolError("the source failed")])
async def test_streams_that_have_ended_are_bounded(error: Exception | None) -> None:
    client = ClientBytes()
    source = Source([100 * KIB] * 10, error)
    wire = Wire(source, client)
    await still(source)
    assert source.read == 10
    assert not wire.ended
    assert client.total > STREAM_SHARE_BYTES
    read = []

    async def read_all() -> None:
        async for chunk in wire.read():
            read.append(chunk["number"])  # noqa: PERF401 - what came before the error

    if error is None:
        await read_all()
    else:
        with pytest.raises(ProtocolError, match="the source failed"):
            await read_all()
    assert read == list(range(1, 11))
    await until(lambda: wire.ended)
    assert client.total == 0
    # Little that is unread does not keep it.
    short = Wire(Source([KIB] * 10, error), client)
    await until(lambda: short.ended)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_the_sizes_everything_arrives(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the other: neither at a bound of chunks, nor at one of bytes."""
    draw = random.Random(seed)
    monkeypatch.setattr(unread_bytes, "STREAM_BYTES", draw.choice([1, 300 * KIB, STREAM_BYTES]))
    monkeypatch.setattr(unread_bytes, "MAX_CLIENT_BYTES", draw.choice([1, 600 * KIB, 2**26]))
    client = ClientBytes()
    stalled = Wire(Source(forever(100 * KIB)), client)

    async def check() -> None:
        count = draw.choice([1, 5, 3000])
        largest = 2_000_000 // count
        sizes = [draw.choice([1, largest, draw.randint(1, largest)]) for _ in range(count)]
        wire = Wire(Source(sizes), client)
        chunks = [chunk async for chunk in wire.read(lambda: draw.random() < 0.001)]
        assert [len(chunk["text"]) for chunk in chunks] == sizes

    async with asyncio.timeout(60):
        await asyncio.gather(*(check() for _ in range(4)))
    await stalled.close()
    assert client.total == 0


async def test_a_client_that_answers_no_probe_at_the_bound_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_sender, "PROBE_S", 0.001)
    sent: list[Any] = []
    for sizes in ([], [100 * KIB] * 10):  # at the bound, and with only the end to come
        source = Source(sizes or forever(STREAM_BYTES))
        sender = StreamSender("u", source, STREAM_CREDIT, sent.append, ClientBytes())
        with pytest.raises(ProtocolError, match="has not responded") as raised:
            await sender.run()
        assert raised.value.code == "client_silent"


@pytest.mark.parametrize(
    ("kind", "more"),
    [("chat", {}), ("chat", {"n": 3}), ("completion", {}), ("completion", {"n": 3, "echo": True})],
)
async def test_unread_answers_of_an_engine(
    client: Any, core: DirectCore, kind: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STREAM_BYTES", "STREAM_SHARE_BYTES"):
        monkeypatch.setattr(unread_bytes, name, 20 * KIB)
    await client.hello()
    asked = {"messages": HELLO} if kind == "chat" else {"prompt": "Hello!"}
    request = {**asked, **more, "max_tokens": 150}
    init = {"request": request, "streamId": "s", "credit": STREAM_CREDIT}
    uuid = client.post(STREAM_INITS[kind], init)
    unread = 0
    seen = 0
    ended = False

    def look() -> None:
        nonlocal unread, seen, ended
        for message in client.down[seen:]:
            if message["kind"] == "chunks":
                unread += size_of(message["content"])
            ended = ended or (message["uuid"] == uuid and message["kind"] == "return")
        seen = len(client.down)

    def full() -> bool:
        look()
        return unread >= 20 * KIB

    await until(full)
    for _ in range(200):
        await asyncio.sleep(0)
    look()
    assert unread < 30 * KIB
    assert not ended
    assert (await core.metrics())["running_requests"] == 1
    while not ended:
        granted = sum(len(m["content"]) for m in client.down if m["kind"] == "chunks")
        client.down.clear()
        seen = 0
        client.post("streamCredit", {"streamId": "s", "credit": granted})
        await client.until(lambda message: message["kind"] in ("chunks", "return"))
        look()


@pytest.mark.parametrize(
    ("size", "count"), [(1, STREAM_CREDIT), (STREAM_BYTES, 3)], ids=["chunks", "bytes"]
)
async def test_a_worker_that_does_not_wait_is_not_waited_for(size: int, count: int) -> None:
    """The proxy holds no more than it has granted, whatever comes."""
    left: list[bool] = []
    receiver = StreamReceiver(lambda credit: None, left.append)
    for seq in range(count + 1):
        receiver.take({"kind": "chunks", "seq": seq, "content": [{}] if seq else []}, size)
    assert left == []
    for seq in range(count + 1, count + 100):
        receiver.take({"kind": "chunks", "seq": seq, "content": [{}]}, size)
    assert left == [True]
    assert len(receiver._batches) == count
    for _ in range(count):
        await anext(receiver)
    with pytest.raises(ProtocolError, match="sent more of a stream than was read") as raised:
        await anext(receiver)
    assert raised.value.code == "too_far_ahead"


@pytest.mark.parametrize("seqs", [[0, 2], [0, 1, 1], [0, 1, 0], [1], [0, None], [0, "1"]])
async def test_no_gap_is_waited_for(seqs: list[Any]) -> None:
    receiver = StreamReceiver(lambda credit: None, lambda running: None)
    for seq in [*seqs, *range(3, 2000)]:
        receiver.take({"kind": "chunks", "seq": seq, "content": [{}]}, stream_receiver.STREAM_BYTES)
    assert len(receiver._batches) < len(seqs)
    with pytest.raises(ProtocolError, match="part of a stream was lost: message"):
        while True:
            await receiver.accepted()
            await anext(receiver)

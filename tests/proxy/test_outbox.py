"""Numbering and sending are one step, whatever else runs in the middle of it."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES, WorkerRequest
from mlc_widget.proxy.outbox import Outbox


class Wire:
    """An outbox whose every step can be interrupted, and what came out of it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.errors: list[MLCEngineError] = []
        self.interrupt: Callable[[str], object] = lambda step: None
        self.outbox = Outbox(self._pack, self._send)

    def _pack(self, data: Any) -> list[Any]:
        self.interrupt("before packing")
        if data["content"] == "bad":
            raise TypeError("bad")
        self.interrupt("after packing")
        return [b"x" * (data["content"] if isinstance(data["content"], int) else 1), data]

    def _send(self, frames: list[Any]) -> None:
        self.interrupt("before sending")
        self.sent.append(frames[1])
        self.interrupt("after sending")

    def post(self, kind: str, content: Any = None, waiter: str = "") -> None:
        self.outbox.post(WorkerRequest(kind, kind, content), waiter, self.errors.append)

    @property
    def numbers(self) -> list[int | None]:
        return [data.get("n") for data in self.sent]


STEPS = ["before packing", "after packing", "before sending", "after sending"]


@pytest.mark.parametrize("step", STEPS)
def test_what_is_posted_meanwhile_waits_its_turn(step: str) -> None:
    wire = Wire()
    names = (f"inner {i}" for i in itertools.count())
    posts = iter(range(5))

    def interrupt(at: str) -> None:
        if at == step and next(posts, None) is not None:
            wire.post(next(names))

    wire.interrupt = interrupt
    for i in range(3):
        wire.post(f"outer {i}")
    assert wire.numbers == list(range(8))
    assert [d["kind"] for d in wire.sent] == [
        "outer 0", *(f"inner {i}" for i in range(5)), "outer 1", "outer 2",
    ]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_what_finalisers_post_waits_its_turn(step: str) -> None:
    wire = Wire()

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            wire.post("left")

    wire.interrupt = lambda at: gc.collect() if at == step else None
    gc.collect()
    gc.freeze()  # so that each collection is quick, whatever ran in this process before
    for _ in range(20):
        Left()
        wire.post("ask")
    assert wire.numbers == list(range(40))


def test_what_was_sent_keeps_nothing_alive() -> None:
    class Stream:
        def end(self, error: MLCEngineError) -> None: ...

    class Content(dict[str, Any]): ...

    wire, stream, content = Wire(), Stream(), Content()
    wire.outbox.post(WorkerRequest("ask", "ask", content), "a stream", stream.end)
    wire.sent.clear()
    left = weakref.ref(stream), weakref.ref(content)
    del stream, content
    assert [ref() for ref in left] == [None, None]
    ((waiter, error),) = wire.outbox.lost(0, 0)  # yet it can still be told
    assert waiter == "a stream"
    assert "Message 0 to the worker, ask, was lost" in str(error)


def test_what_cannot_be_sent_takes_no_number() -> None:
    wire = Wire()
    for content in (None, "bad", MAX_MESSAGE_BYTES, None, "bad"):
        wire.post("ask", content)
    wire.post("hello")
    wire.post("ask")
    assert wire.numbers == [0, 1, None, 2]
    assert [str(e)[:15] for e in wire.errors] == [
        "ask: its conten",
        "This request is",
        "ask: its conten",
    ]


def test_an_error_of_one_is_told_to_that_one() -> None:
    wire = Wire()
    posts = iter(range(1))

    def interrupt(at: str) -> None:
        if at == "after packing" and next(posts, None) is not None:
            wire.post("inner", "bad")

    wire.interrupt = interrupt
    wire.post("outer")
    wire.post("next")
    assert [str(e) for e in wire.errors] == ["inner: its content is not plain JSON (bad)."]
    assert wire.numbers == [0, 1]


def test_a_socket_that_breaks_does_not_jam_the_outbox() -> None:
    wire = Wire()

    def broken(at: str) -> None:
        raise MemoryError

    wire.interrupt = broken
    with pytest.raises(MemoryError):
        wire.post("ask")
    wire.interrupt = lambda at: None
    wire.post("ask")
    assert wire.numbers == [0]


def test_lost_numbers_are_told_to_who_waits() -> None:
    wire = Wire()
    for i in range(6):
        wire.post("ask", waiter=f"w{i}")
    lost = wire.outbox.lost(2, 3)
    assert [w for w, _ in lost] == ["w2", "w3"]
    assert all(isinstance(e, ProtocolError) for _, e in lost)
    assert str(lost[0][1]) == "Message 2 to the worker, ask, was lost: try again."
    assert wire.outbox.lost(2, 3) == []
    assert wire.outbox.lost(100, 10**12) == []


def test_what_is_remembered_is_bounded() -> None:
    wire = Wire()
    for _ in range(10_000):
        wire.post("ask", waiter="w")
    assert len(wire.outbox.lost(0, 10_000)) == 8192


def test_what_expands_beyond_all_bounds_is_not_packed() -> None:
    wire = Wire()
    packed: list[str] = []
    wire.interrupt = packed.append
    bomb: Any = [0]
    for _ in range(12):
        bomb = [bomb] * 10
    wire.post("customRequest", {"requestName": "a", "requestMessage": bomb})
    wire.post("customRequest", {"requestName": "a", "requestMessage": ["x" * 2**20] * 17})
    wire.post("customRequest", {"requestName": "a", "requestMessage": [[7] * 2**20] * 17})
    assert packed == []
    assert [type(e) for e in wire.errors] == [ProtocolError] * 3
    assert all(str(MAX_MESSAGE_BYTES) in str(e) for e in wire.errors)
    wire.post("ask")
    assert wire.numbers == [0]

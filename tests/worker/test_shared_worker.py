"""Who a shared worker takes as its client, when it lets one go, and when it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.worker import shared_worker

from ..waiting import until
from .conftest import Bench, hello

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared workers there")


@pytest.mark.parametrize(
    "who",
    [None, {}, {"pid": "1"}, {"pid": 0}, {"pid": -1}, {"pid": True}, {"pid": 2**40}, [1], "me"],
)
async def test_a_client_must_say_which_process_it_is(make: Callable[..., Bench], who: Any) -> None:
    bench = make()
    answer = await hello(bench.client(), who)
    assert answer["kind"] == "throw"
    assert "client.pid must be the id of the client's process" in answer["content"]
    assert bench.clients == []


async def test_a_process_that_is_not_there_is_no_client(make: Callable[..., Bench]) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    answer = await hello(make().client(), {"pid": ended.pid})
    assert f"there is no process {ended.pid} here" in answer["content"]


async def test_a_client_that_dies_leaves_its_requests_end_and_others_stay(
    make: Callable[..., Bench], tiny_model: Path
) -> None:
    bench = make()
    process = subprocess.Popen(["sleep", "600"])
    dying, staying = bench.client(), bench.client()
    try:
        await hello(dying, {"pid": process.pid})
        await hello(staying, {"pid": os.getpid()})
        for client in (dying, staying):
            assert (await client.call("reload", {"modelId": str(tiny_model)}))["kind"] == "return"
            client.post(
                "chatCompletionNonStreaming",
                {"request": {"messages": [{"role": "user", "content": "hello"}]}},
            )
        await until(lambda: [c["requests"] for c in bench.clients] == [1, 1])
    finally:
        process.kill()
        process.wait()
    await until(lambda: [(c["pid"], c["requests"]) for c in bench.clients] == [(os.getpid(), 1)])
    [model] = bench.worker.info()["models"]
    assert model["clients"] == 1


async def test_an_observer_sees_everything_and_keeps_nothing(make: Callable[..., Bench]) -> None:
    bench = make(idle_timeout=0.001)
    observer = bench.client()
    assert (await hello(observer, {"observer": True}))["kind"] == "return"
    info = (await observer.call("workerInfo"))["content"]
    assert info["name"] == "one"
    assert info["clients"] == []
    await until(lambda: bench.worker._look() or bench.ended)


async def test_of_other_clients_only_sums_are_told(
    make: Callable[..., Bench], tiny_model: Path
) -> None:
    bench = make()
    one, busy, observer = bench.client(), bench.client(), bench.client()
    for client in (one, busy):
        await hello(client, {"pid": os.getpid()})
    await hello(observer, {"observer": True})
    assert (await busy.call("reload", {"modelId": str(tiny_model)}))["kind"] == "return"
    request = {"messages": [{"role": "user", "content": "secret"}], "request_id": "secret"}
    busy.post("chatCompletionNonStreaming", {"request": request})
    await until(lambda: [c["requests"] for c in bench.clients] == [0, 1])
    nothing = {"running_requests": 0, "waiting_requests": 0, "open_streams": 0}
    assert (await one.call("statistics"))["content"] == {
        **nothing,
        "other_clients": 1,
        "other_clients_requests": 1,
        "other_clients_streams": 0,
    }
    own = (await busy.call("statistics"))["content"]
    assert (own["running_requests"], own["other_clients_requests"]) == (1, 0)
    assert (await observer.call("statistics"))["content"]["other_clients"] == 2


async def test_a_client_s_salt_is_that_of_its_requests(
    make: Callable[..., Bench], tiny_model: Path
) -> None:
    bench = make(text="a")
    salted, plain = bench.client(), bench.client()
    await hello(salted, {"pid": os.getpid(), "cache_salt": "user-1"})
    await hello(plain, {"pid": os.getpid()})
    for client, salt in ((salted, "user-1"), (plain, "")):
        assert (await client.call("reload", {"modelId": str(tiny_model)}))["kind"] == "return"
        [model] = client.handler.core._models
        assert model.sampling({}, stop_at_template=False).cache_salt == salt
    refused = await hello(bench.client(), {"pid": os.getpid(), "cache_salt": 5})
    assert refused["error"]["param"] == "client.cache_salt"


async def test_it_ends_when_its_time_without_clients_is_over(make: Callable[..., Bench]) -> None:
    bench = make(idle_timeout=0.001)
    await hello(bench.client(), {"pid": os.getpid()})
    bench.worker._look()
    assert not bench.worker.ending
    bench.leave.pop()()
    await until(lambda: bench.worker._look() or bench.ended)
    assert bench.records.names() == []
    late = await hello(bench.client(), {"pid": os.getpid()})
    assert "is about to end" in late["content"]
    assert late["error"]["code"] == "worker_ending"


async def test_it_waits_while_a_client_is_just_looking_for_it(make: Callable[..., Bench]) -> None:
    bench = make(idle_timeout=0.001)
    bench.client()
    bench.leave.pop()()
    with bench.records.locked("one"):
        for _ in range(3):
            await asyncio.sleep(0)
            bench.worker._look()
        assert not bench.worker.ending
        assert bench.records.names() == ["one"]
    await until(lambda: bench.worker._look() or bench.ended)


async def test_a_worker_whose_record_is_gone_ends_with_its_last_client(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await hello(bench.client(), {"pid": os.getpid()})
    bench.records.path("one").unlink()
    bench.worker._look()
    assert not bench.worker.ending
    bench.leave.pop()()
    bench.worker._look()
    await until(lambda: bench.ended)


async def test_a_worker_whose_sockets_are_gone_is_not_found_any_more(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir()
    bench = make(runtime_dir=directory)
    await hello(bench.client(), {"pid": os.getpid()})
    bench.worker._look()
    assert bench.records.names() == ["one"]
    directory.rmdir()
    bench.worker._look()
    assert bench.records.names() == []
    assert not bench.worker.ending, "its clients still use it"


def test_a_log_that_is_too_long_begins_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    kept = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.write(1, b"x" * 100)
        shared_worker._bound_log(100)
        assert log.stat().st_size == 100
        shared_worker._bound_log(99)
        assert log.stat().st_size == 0
        os.write(2, b"y")
        assert log.read_bytes() == b"y"
    finally:
        for fd, original in zip((1, 2), kept, strict=True):
            os.dup2(original, fd)
            os.close(original)
        os.close(file)

"""What a worker sends of its log, to whom, and how often."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.worker import log_feed

from ..waiting import until
from .conftest import Bench, Client, hello

CANARY = "canary"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_feed, "_INTERVAL_S", 0.0)


def logs(client: Client) -> list[list[str]]:
    """The messages of the records in each ``log`` message so far."""
    return [[one["message"] for one in m["content"]] for m in client.down if m["kind"] == "log"]


async def test_records_come_one_message_at_a_time(client: Client) -> None:
    await client.hello()
    await until(lambda: logs(client))
    log, before = client.handler.core.log, len(logs(client))
    for number in range(300):
        log.note(f"number {number}")
    await client.call("health")
    assert len(logs(client)) == before, "the first is not acknowledged"
    client.post("logTaken")
    await until(lambda: len(logs(client)) == before + 1)
    assert logs(client)[-1] == [f"number {number}" for number in range(100, 300)]


async def test_web_llm_s_client_gets_none(client: Client) -> None:
    client.handler.core.log.note("something")
    await client.call("health")
    await client.call("chatCompletionNonStreaming", {"request": {"messages": CANARY}})
    assert logs(client) == []


async def test_a_client_that_has_gone_gets_nothing_more(client: Client) -> None:
    await client.hello()
    await client.handler.close()
    log = client.handler.core.log
    log.note("something")
    assert log.listeners == []


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("setAppConfig", {CANARY: 1}),
        ("setAppConfig", {"model_list": [{CANARY: CANARY}]}),
        ("setLogLevel", CANARY),
        ("chatCompletionNonStreaming", {"request": {"messages": CANARY}}),
        ("chatCompletionNonStreaming", {"request": {"messages": [], CANARY: 1}}),
        ("chatCompletionStreamInit", {"request": {"messages": [{"role": CANARY}]}, "credit": 1}),
        ("completionNonStreaming", {"request": {"prompt": CANARY, "temperature": CANARY}}),
        ("embedding", {"request": {"input": CANARY}}),
        ("reload", {"modelId": CANARY}),
        ("customRequest", {"requestName": CANARY}),
        (CANARY, CANARY),
    ],
)
async def test_what_is_refused_is_quoted_nowhere(
    client: Client, caplog: pytest.LogCaptureFixture, kind: str, content: Any
) -> None:
    await client.hello()
    client.post(kind, content)
    await client.call("health")
    await until(lambda: logs(client))
    client.post("logTaken")
    await client.call("health")
    assert CANARY not in str([record.to_wire() for record in client.handler.core.log.read()])
    assert CANARY not in str(logs(client))
    assert CANARY not in caplog.text


async def test_a_failed_request_is_logged_with_its_id(client: Client) -> None:
    bad = {"messages": [{"role": "user", "content": CANARY}], "temperature": -1}
    await client.call("chatCompletionNonStreaming", {"request": {**bad, "request_id": "mine"}})
    wrong = {**bad, "temperature": 0, "model": CANARY, "request_id": "other"}
    stream = {"request": wrong, "streamId": "s", "credit": 1}
    await client.call("chatCompletionStreamInit", stream)
    assert [(one.message, one.request_id) for one in client.handler.core.log.read()[-2:]] == [
        ("A request failed: BadRequestError", "mine"),
        ("A request failed: ModelNotLoadedError", "other"),
    ]

    async def panic(_: Any) -> Any:
        raise RuntimeError(CANARY)

    client.handler._calls["metrics"] = panic
    await client.call("metrics", {"request": {"request_id": "third"}})
    last = client.handler.core.log.read()[-1]
    assert last.message.startswith("metrics failed (request 'third') [RuntimeError at mlc_widget")
    assert (last.level, last.request_id) == ("ERROR", "third")


async def test_the_clients_of_a_shared_worker_see_their_own_records_only(
    make: Callable[..., Bench], tiny_model: Path
) -> None:
    bench = make()
    one, other, observer = bench.client(), bench.client(), bench.client()
    for client in (one, other):
        await hello(client, {"pid": os.getpid()})
    await hello(observer, {"observer": True})
    logging.getLogger("mlc_widget.engine").warning("of nobody")
    assert (await other.call("reload", {"modelId": str(tiny_model)}))["kind"] == "return"
    await until(lambda: logs(other))
    assert logs(other) == [["The models are loaded."]]
    await one.call("reload", {"modelId": CANARY})
    await until(lambda: logs(one))
    assert logs(one)[0][-1] == "A load failed: ModelNotFoundError"
    assert logs(observer) == []

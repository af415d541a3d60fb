"""The handler answers everything exactly once: valid and invalid messages, and nonsense."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.session import json_packer

from mlc_widget import __version__
from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.engine.core import DirectCore
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES, MAX_WHOLE_REQUESTS
from mlc_widget.proxy.stream_receiver import StreamReceiver
from mlc_widget.worker import handler, stream_sender
from mlc_widget.worker.handler import _MOST_CONFIGS, KernelMLCEngineHandler

from ..waiting import until

HELLO = [{"role": "user", "content": "Hello!"}]


async def test_an_unknown_kind_is_answered(client: Any) -> None:
    answer = await client.call("nonsense")
    assert answer["kind"] == "throw"
    assert "unknown message kind 'nonsense'; known: " in answer["content"]


@pytest.mark.parametrize(
    "data",
    [None, 5, "reload", [], {}, {"kind": "reload"}, {"uuid": "x"}, {"kind": 5, "uuid": "x"},
     {"kind": "", "uuid": "x"}, {"kind": "reload", "uuid": 5},
     {"kind": "metrics", "uuid": "\ud800"}, {"kind": "", "uuid": "x\udfff"}],
)  # fmt: skip
async def test_a_malformed_message_is_answered(client: Any, data: Any) -> None:
    client.handler.on_message(data)
    (answer,) = client.down
    assert answer["kind"] == "throw"
    uuid = data.get("uuid") if isinstance(data, dict) else ""
    assert answer["uuid"] == ("x" if uuid == "x" else "")
    json_packer(answer)


@pytest.mark.parametrize("version", [None, "", 7, "1; rm -rf ~", "`date`", "1" * 99])
async def test_only_a_version_is_named_in_a_command(client: Any, version: Any) -> None:
    answer = await client.call("hello", {"protocol": 0, "version": version})
    assert answer["error"]["code"] == "version_mismatch"
    assert answer["content"].endswith(
        f"the notebook speaks protocol 0. In the notebook's environment: `pip install "
        f"mlc-widget=={__version__}`; then restart its kernel."
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("completionNonStreaming", {"request": {"prompt": "x" * 2**20}}),
        ("completionStreamInit", {"streamId": "s", "request": {"prompt": ["x" * 2**16] * 17}}),
        ("embedding", {"request": {"input": [[7] * 2**16] * 6}}),
        ("customRequest", {"é" * 2**19: 1}),
        ("nonsense", [[1.23456789] * 2**16, [[]] * 2**18]),
    ],
    ids=["a text", "many texts", "token ids", "a key", "numbers"],
)
async def test_a_message_that_is_too_large_is_answered(
    client: Any, kind: str, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_MESSAGE_BYTES == 2**24
    monkeypatch.setattr(handler, "MAX_MESSAGE_BYTES", 2**20)
    await client.hello()
    uuid = client.post(kind, content, n=0)
    (answer,) = [m for m in client.down if m["uuid"] == uuid]  # at once, without any work
    assert answer["kind"] == "throw"
    assert str(2**20) in answer["content"]
    assert answer["error"]["code"] == "protocol_error"
    # Those after it do not wait for its number.
    after = client.post("listModels", n=1)
    assert (await client.until(lambda m: m["uuid"] == after))["kind"] == "return"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("x" * 10**6, None),
        ("abort", {"requestId": ["x" * 10**6]}),
        ("metrics\n" * 10**5, {}),
        (
            "chatCompletionNonStreaming",
            {"request": {}, "modelId": "m", "appConfigHash": "x" * 10**6},
        ),
        ("setLogLevel", "x" * 10**6),
    ],
    ids=["kind", "field", "lines", "hash", "level"],
)
async def test_a_long_value_is_quoted_in_part(
    client: Any, kind: str, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await client.hello()
    uuid = client.post(kind, content)

    def answers() -> list[str]:
        return [m["content"] for m in client.down if m["uuid"] == uuid]

    await until(lambda: answers() or caplog.records)
    said = answers() or [record.getMessage() for record in caplog.records]
    assert 0 < len(said[0]) < 2000


class PanicException(BaseException):
    """As Rust's panics come through pyo3."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [PanicException("x"), RecursionError(), MemoryError(), asyncio.CancelledError(),
     GeneratorExit(), Unspeakable(), StopAsyncIteration()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_whatever_is_thrown_is_answered(client: Any, error: BaseException) -> None:
    async def fail(*args: Any) -> None:
        raise error

    client.handler.core.get_message = fail
    answer = await client.call("getMessage")
    assert answer["kind"] == "throw"
    assert type(error).__name__ in answer["content"]


async def test_an_answer_that_cannot_be_sent_is_an_error(client: Any) -> None:
    send, client.handler._send = client.handler._send, None

    def refuse(message: Any) -> None:
        if message["kind"] == "return":
            raise TypeError("not JSON")
        send(message)

    client.handler._send = refuse
    assert (await client.call("getMessage"))["kind"] == "throw"


_KINDS = sorted(
    {
        "hello", "keepAlive", "reload", "unload", "chatCompletionNonStreaming", "embedding",
        "completionNonStreaming", "chatCompletionStreamInit", "completionStreamInit",
        "completionStreamNextChunk", "completionStreamReturn", "streamCredit", "progressTaken",
        "interruptGenerate", "abort", "resetChat", "getMessage", "runtimeStatsText",
        "forwardTokensAndSample", "metrics", "statistics", "listModels", "deviceInfo",
        "getGPUVendor", "getMaxStorageBufferBindingSize", "setLogLevel", "setAppConfig",
        "customRequest", "listResumableSessions", "resumeChatCompletion", "nonsense",
    }
)  # fmt: skip
_SILENT = {"keepAlive", "setLogLevel", "setAppConfig", "progressTaken"}


async def test_a_thousand_random_messages_are_each_answered_once(
    connect: Callable[..., Any], tiny_model: Path
) -> None:
    draw = random.Random(4)
    values = [None, 0, -1, 2**70, 1.5, True, "", "x", [], [1, "x"], {}, {"a": 1}, str(tiny_model)]
    names = [
        "request", "modelId", "chatOpts", "streamId", "credit", "requestId", "keepStats",
        "inputIds", "isPrefill", "requestName", "requestMessage", "protocol", "selectedModelId",
        "appConfigHash", "model_list",
    ]  # fmt: skip
    requests = [
        {"messages": HELLO, "max_tokens": 3},
        {"prompt": "x", "max_tokens": 3},
        {"input": "x"},
    ]
    client = connect()
    sent: dict[str, str] = {}
    granted: set[str] = set()
    for _ in range(1000):
        content: Any = draw.choice(values)
        if draw.random() < 0.8:
            content = {n: draw.choice([*values, *requests]) for n in draw.sample(names, 5)}
        kind = draw.choice(_KINDS)
        uuid = client.post(kind, content)
        sent[uuid] = kind
        if kind == "streamCredit" and isinstance(content, dict):
            credit = content.get("credit")
            if type(credit) is int and credit >= 0:  # it is taken, whatever the stream's id
                granted.add(uuid)
    awaited = {uuid for uuid, kind in sent.items() if kind not in _SILENT} - granted

    def answers() -> list[str]:
        answered = [m["uuid"] for m in client.down if m["kind"] in ("return", "throw")]
        # A stream that was begun under credit is answered once it has ended.
        for uuid in awaited - set(answered):
            if sent[uuid].endswith("StreamInit"):
                client.post("interruptGenerate")
                client.post("streamCredit", {"streamId": "x", "credit": 100})
        return answered

    await until(lambda: awaited <= set(answers()))
    times = [answers().count(uuid) for uuid in awaited]
    assert set(times) == {1}
    silent = {uuid for uuid, kind in sent.items() if kind in _SILENT - {"keepAlive"}}
    assert not [m for m in client.down if m["uuid"] in silent and m["kind"] == "return"]


async def test_only_a_peer_that_said_hello_gets_the_error_object(
    connect: Callable[..., Any],
) -> None:
    plain, ours = connect(), connect()
    await ours.hello()
    request = {"request": {"messages": HELLO, "temperature": 5}}
    thrown = await plain.call("chatCompletionNonStreaming", request)
    assert sorted(thrown) == ["content", "kind", "uuid"]
    thrown = await ours.call("chatCompletionNonStreaming", request)
    assert thrown["error"]["type"] == "BadRequestError"
    assert thrown["error"]["param"] == "temperature"
    assert thrown["error"]["message"] == thrown["content"]
    traceback = thrown["error"]["traceback"]
    assert "handler.py" in traceback
    assert traceback.rstrip().endswith(f"BadRequestError: {thrown['content']}")


async def test_another_version_is_refused_clearly(client: Any) -> None:
    answer = await client.call("hello", {"protocol": 999})
    assert answer["kind"] == "throw"
    assert "speaks protocol 999" in answer["content"]
    assert f"`pip install mlc-widget=={__version__}`" in answer["content"]


async def test_credit_without_hello_means_nothing(client: Any) -> None:
    init = {"request": {"messages": HELLO}, "streamId": "s", "credit": 10}
    assert (await client.call("chatCompletionStreamInit", init))["content"] is None
    chunk = await client.call("completionStreamNextChunk", {"streamId": "s"})
    assert chunk["content"]["object"] == "chat.completion.chunk"
    assert {m["kind"] for m in client.down} == {"return"}


async def test_a_pulled_stream_ends_without_content(client: Any) -> None:
    init = {"request": {"messages": HELLO, "max_tokens": 2}, "streamId": "s"}
    await client.call("chatCompletionStreamInit", init)
    answers = []
    while "content" in (
        answer := await client.call("completionStreamNextChunk", {"streamId": "s"})
    ):
        answers.append(answer["content"]["choices"][0]["finish_reason"])
    assert answers == [None, None, "length"]
    again = await client.call("completionStreamNextChunk", {"streamId": "s"})
    assert again["kind"] == "throw"


async def test_a_pushed_stream_never_exceeds_its_credit(client: Any) -> None:
    await client.hello()
    init = {"request": {"messages": HELLO, "max_tokens": 50}, "streamId": "s", "credit": 7}
    uuid = client.post("chatCompletionStreamInit", init)

    def chunks() -> int:
        return sum(len(m["content"]) for m in client.down if m["kind"] == "chunks")

    await client.until(lambda m: chunks() == 7)
    for _ in range(200):
        await asyncio.sleep(0)
    assert chunks() == 7
    client.post("streamCredit", {"streamId": "s", "credit": 100})
    await client.until(lambda m: m["kind"] == "return" and m["uuid"] == uuid)
    assert chunks() == 51
    seqs = [m["seq"] for m in client.down if m["kind"] == "chunks"]
    assert seqs == list(range(len(seqs)))


async def test_leaving_a_stream_while_it_opens(client: Any, core: DirectCore) -> None:
    await client.hello()
    init = {"request": {"messages": HELLO}, "streamId": "s", "credit": 7}
    client.post("chatCompletionStreamInit", init)
    await client.call("completionStreamReturn", {"streamId": "s"})
    assert (await core.metrics())["running_requests"] == 0
    # The id is free again.
    client.post("chatCompletionStreamInit", init)
    await client.until(lambda m: m["kind"] == "chunks" and m["seq"] == 1)


async def test_messages_of_a_stream_may_not_share_an_id(client: Any) -> None:
    init = {"request": {"messages": HELLO}, "streamId": "s"}
    await client.call("chatCompletionStreamInit", init)
    assert "exists already" in (await client.call("chatCompletionStreamInit", init))["content"]


async def test_too_many_streams_are_refused(client: Any, core: DirectCore) -> None:
    for i in range(256):
        init = {"request": {"messages": HELLO}, "streamId": f"s{i}"}
        client.post("chatCompletionStreamInit", init)
    answer = await client.call("chatCompletionStreamInit", {**init, "streamId": "one more"})
    assert "at most 256 streams" in answer["content"]
    await client.handler.close()
    assert (await core.metrics())["running_requests"] == 0


async def test_too_many_whole_requests_are_refused(
    connect: Callable[..., Any], core: DirectCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_WHOLE_REQUESTS == 512
    monkeypatch.setattr(handler, "MAX_WHOLE_REQUESTS", 2)
    client, other = connect(), connect()
    kinds = ["chatCompletionNonStreaming", "completionNonStreaming", "embedding"]
    chat = {"request": {"messages": HELLO, "request_id": "one", "max_tokens": 900}}
    text = {"request": {"prompt": "x", "max_tokens": 900}}
    running = [client.post(kinds[0], chat), client.post(kinds[1], text)]
    for kind, content in zip(kinds, [chat, text, {"request": {"input": "x"}}], strict=True):
        answer = await client.call(kind, content)
        assert (answer["kind"], "at most 2 requests" in answer["content"]) == ("throw", True)
    # Others are not counted, nor what is asked beside them; and one that has ended makes room.
    assert (await other.call(kinds[1], text))["kind"] == "return"
    assert (await client.call("metrics"))["kind"] == "return"
    for uuid in running:
        assert (await client.until(lambda m, uuid=uuid: m["uuid"] == uuid))["kind"] == "return"
    assert (await client.call(kinds[1], text))["kind"] == "return"


async def test_a_client_that_goes_takes_its_work_along(
    connect: Callable[..., Any], core: DirectCore
) -> None:
    gone, stays = connect(), connect()
    await gone.hello()
    gone.post(
        "chatCompletionStreamInit", {"request": {"messages": HELLO}, "streamId": "a", "credit": 5}
    )
    await gone.call("chatCompletionStreamInit", {"request": {"messages": HELLO}, "streamId": "b"})
    await gone.until(lambda m: m["kind"] == "chunks" and m["seq"] == 1)
    await stays.call("chatCompletionStreamInit", {"request": {"messages": HELLO}, "streamId": "a"})
    assert (await core.metrics())["running_requests"] == 3
    await gone.handler.close()
    assert (await core.metrics())["running_requests"] == 1


async def test_numbered_messages_are_taken_in_their_order(
    client: Any, core: DirectCore, tiny_model: Path
) -> None:
    await client.hello()
    config = {"model_list": [{"model_id": "named", "model": str(tiny_model)}]}
    reload = client.post("reload", {"modelId": ["named"]}, n=1)
    client.post("setAppConfig", config, n=0)
    answer = await client.until(lambda m: m["uuid"] == reload)
    assert answer["kind"] == "return"
    assert [m["id"] for m in await core.list_models()] == ["named"]


async def test_progress_waits_for_a_client_that_takes_none(
    client: Any, core: DirectCore, tiny_model: Path
) -> None:
    await client.hello()

    def report(i: int) -> InitProgressReport:
        return InitProgressReport(progress=i / 1000, time_elapsed=i, text=f"{i}")

    def on_the_way() -> list[str]:
        return [m["content"]["text"] for m in client.down if m["kind"] == "initProgressCallback"]

    client.handler.report_progress(report(0))
    assert on_the_way() == [], "it waits for no load"
    load = client.post("reload", {"modelId": [str(tiny_model)]})
    await asyncio.sleep(0)
    for i in range(1000):
        client.handler.report_progress(report(i))
    assert len(on_the_way()) == 16
    client.post("progressTaken")
    await client.until(
        lambda m: m["kind"] == "initProgressCallback" and m["content"]["text"] == "999"
    )
    assert on_the_way()[-1] == "999"
    await client.until(lambda m: m["uuid"] == load)
    assert len(on_the_way()) <= 20


async def test_requests_that_find_another_model_share_one_reload(
    client: Any, core: DirectCore, other_tiny_model: Path
) -> None:
    content = {"request": {"messages": HELLO, "max_tokens": 2}, "modelId": [str(other_tiny_model)]}
    answers = await asyncio.gather(
        *(client.call("chatCompletionNonStreaming", content) for _ in range(5))
    )
    assert {a["kind"] for a in answers} == {"return"}
    assert {a["content"]["model"] for a in answers} == {str(other_tiny_model)}
    # chatOpts are compared, too.
    opts = {**content, "chatOpts": [{"context_window_size": 99}]}
    await client.call("chatCompletionNonStreaming", opts)
    assert (await core.list_models())[0]["context_window_size"] == 99


async def test_a_request_that_is_aborted_before_it_begins(
    client: Any, core: DirectCore, other_tiny_model: Path
) -> None:
    await client.hello()
    content = {
        "request": {"messages": HELLO, "request_id": "early"},
        "modelId": [str(other_tiny_model)],
    }
    uuid = client.post("chatCompletionNonStreaming", content)
    await asyncio.sleep(0)
    await client.call("abort", {"requestId": "early"})
    answer = await client.until(lambda m: m["uuid"] == uuid)
    assert answer["content"]["choices"][0]["finish_reason"] == "abort"
    assert (await core.metrics())["running_requests"] == 0


class Custom(KernelMLCEngineHandler):
    async def custom_request(self, name: str, message: Any) -> Any:
        if name == "double":
            return message * 2
        return await super().custom_request(name, message)


async def test_a_subclass_answers_its_own_requests(connect: Callable[..., Any]) -> None:
    client = connect(Custom)
    double = {"requestName": "double", "requestMessage": 21}
    assert (await client.call("customRequest", double))["content"] == 42
    unknown = {"requestName": "triple", "requestMessage": 21}
    assert (
        "unknown custom request 'triple'"
        in (await client.call("customRequest", unknown))["content"]
    )
    broken = {"requestName": "double", "requestMessage": {}}
    assert (await client.call("customRequest", broken))["content"].startswith("TypeError")


async def test_a_stalled_stream_ends_once_its_client_answers_nothing(
    connect: Callable[..., Any], core: DirectCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_sender, "PROBE_S", 0.01)
    slow, killed = connect(), connect()
    inits = {}
    for client in (slow, killed):
        await client.hello()
        init = {"request": {"messages": HELLO}, "streamId": "s", "credit": 5}
        inits[client] = client.post("chatCompletionStreamInit", init)

    def probes(client: Any) -> int:
        empty = [m for m in client.down if m["kind"] == "chunks" and not m["content"]]
        return len(empty) - 1  # the first says that the request was accepted

    async def answer() -> None:
        for answered in itertools.count():
            await slow.until(lambda _, before=answered: probes(slow) > before)
            slow.post("streamCredit", {"streamId": "s", "credit": 0})

    answering = asyncio.create_task(answer())
    thrown = await killed.until(lambda m: m["kind"] == "throw")
    assert thrown["uuid"] == inits[killed]
    assert thrown["error"]["code"] == "client_silent"
    assert probes(killed) == stream_sender.PROBES
    await slow.until(lambda _: probes(slow) > 2 * stream_sender.PROBES)
    assert (await core.metrics())["running_requests"] == 1
    answering.cancel()
    slow.post("streamCredit", {"streamId": "s", "credit": 5})
    await slow.until(lambda m: m["kind"] == "chunks" and len(m["content"]) == 5)
    seqs = [m["seq"] for m in slow.down if m["kind"] == "chunks"]
    assert seqs == list(range(len(seqs)))


async def test_a_proxys_stream_answers_probes_while_nobody_reads() -> None:
    granted: list[int] = []
    stream = StreamReceiver(granted.append, lambda running: None)
    for seq, chunks in enumerate([[], [{}], [], []]):
        stream.take({"kind": "chunks", "seq": seq, "content": chunks})
    await stream.accepted()
    assert granted == [0, 0]
    assert await anext(stream) == [{}]


async def test_a_reload_for_a_request_is_remembered_and_a_failed_one_is_not(
    client: Any, core: DirectCore, tiny_model: Path, other_tiny_model: Path, tmp_path: Path
) -> None:
    request = {"messages": HELLO, "max_tokens": 1}
    other = {"request": request, "modelId": [str(other_tiny_model)], "chatOpts": [None]}
    assert (await client.call("chatCompletionNonStreaming", other))["kind"] == "return"
    model = next(iter(core._models))
    assert (await client.call("chatCompletionNonStreaming", other))["kind"] == "return"
    assert next(iter(core._models)) is model, "it was loaded for the second request, too"
    gone = {"request": request, "modelId": [str(tmp_path / "gone")]}
    for _ in range(2):
        answer = await client.call("chatCompletionNonStreaming", gone)
        assert "neither a folder nor a .gguf file here" in answer["content"]
        assert next(iter(core._models)) is model, "it stays"
    # What a newer message ended is not taken for loaded either.
    load = client.post("reload", {"modelId": [str(tiny_model)]})
    await client.call("unload")
    assert (await client.until(lambda m: m["uuid"] == load))["kind"] == "throw"
    assert await core.list_models() == []
    wanted = {"request": request, "modelId": [str(tiny_model)]}
    answer = await client.call("chatCompletionNonStreaming", wanted)
    assert answer["content"]["model"] == str(tiny_model)


async def test_a_request_that_a_reload_overtook_is_sent_again_and_does_not_undo_it(
    client: Any, core: DirectCore, tiny_model: Path, other_tiny_model: Path
) -> None:
    await client.hello()
    old, new = ({"modelId": [str(m)], "chatOpts": [None]} for m in (tiny_model, other_tiny_model))
    request = {"request": {"messages": HELLO, "max_tokens": 1}}
    await client.call("reload", old)
    await client.call("reload", new)
    for _ in range(2):
        answer = await client.call("chatCompletionNonStreaming", {**request, **old})
        assert answer["error"]["code"] == "model_replaced"
        assert [m["id"] for m in await core.list_models()] == [str(other_tiny_model)]
    answer = await client.call("chatCompletionNonStreaming", {**request, **new})
    assert answer["content"]["model"] == str(other_tiny_model)
    # From then on the client knows, so it means what it says.
    answer = await client.call("chatCompletionNonStreaming", {**request, **old})
    assert answer["content"]["model"] == str(tiny_model)


async def test_app_configs_are_compared(
    client: Any, tiny_model: Path, other_tiny_model: Path
) -> None:
    await client.hello()

    def named(model: Path) -> dict[str, Any]:
        return {"model_list": [{"model_id": "mine", "model": str(model)}]}

    async def asked(config: dict[str, Any]) -> dict[str, Any]:
        content = {
            "request": {"messages": HELLO, "max_tokens": 1},
            "modelId": ["mine"],
            "appConfigHash": AppConfig.read(config).digest,
        }
        return dict(await client.call("chatCompletionNonStreaming", content))

    first, second = named(tiny_model), named(other_tiny_model)
    for config in (first, second):
        client.post("setAppConfig", config)
    places = []
    for config in (first, second, second, first):
        assert (await asked(config))["kind"] == "return"
        places.append(next(iter(client.handler.core._models)).source.path)
    assert places == [tiny_model, other_tiny_model, other_tiny_model, tiny_model]
    answer = await asked(named(tiny_model / "elsewhere"))
    assert "send setAppConfig first" in answer["content"]


async def test_of_many_app_configs_only_the_newest_are_kept(client: Any, tiny_model: Path) -> None:
    await client.hello()

    def named(number: int) -> dict[str, Any]:
        return {"model_list": [{"model_id": f"m{number}", "model": str(tiny_model)}]}

    async def load(number: int) -> dict[str, Any]:
        config = AppConfig.read(named(number))
        content = {"modelId": [f"m{number}"], "appConfigHash": config.digest}
        return dict(await client.call("reload", content))

    client.post("setAppConfig", named(0))
    assert (await load(0))["kind"] == "return"
    for number in range(1, _MOST_CONFIGS + 3):
        client.post("setAppConfig", named(number))
    assert (await load(_MOST_CONFIGS + 2))["kind"] == "return"
    assert len(client.handler._app_configs) == _MOST_CONFIGS
    assert "send setAppConfig first" in (await load(1))["content"]


async def test_the_app_config_of_the_models_is_kept(client: Any, tiny_model: Path) -> None:
    await client.hello()
    config = {"model_list": [{"model_id": "mine", "model": str(tiny_model)}]}
    named = {"modelId": ["mine"], "appConfigHash": AppConfig.read(config).digest}
    client.post("setAppConfig", config)
    await client.call("reload", named)
    for number in range(_MOST_CONFIGS):
        other = {"model_id": f"m{number}", "model": str(tiny_model)}
        client.post("setAppConfig", {"model_list": [other]})
    request = {"messages": HELLO, "max_tokens": 1}
    answer = await client.call("chatCompletionNonStreaming", {"request": request, **named})
    assert answer["kind"] == "return"

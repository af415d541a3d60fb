"""A served engine over real HTTP: OpenAI's own client, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from mlc_widget import EngineServer
from mlc_widget.api.errors import BadRequestError, InternalEngineError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.serving import handler as handling
from mlc_widget.api.serving import listener as listening
from mlc_widget.api.serving.body_budget import BodyBudget

from ...waiting import until, until_idle, until_running

TOKEN = "0123456789abcdef-token"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


def port_of(server: EngineServer) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def client_of(server: EngineServer, **options: Any) -> openai.AsyncOpenAI:
    chosen = {"base_url": server.url, "api_key": server.token, "max_retries": 0, **options}
    return openai.AsyncOpenAI(**chosen)


async def unread(server: EngineServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of a client that reads nothing by itself; its system keeps little for it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port_of(server)))
    return await asyncio.open_connection(sock=client, limit=1)


async def exchange(server: EngineServer, sent: bytes) -> tuple[int, bytes, Any]:
    """Send bytes; returns the status, the header and the body, read as JSON if it is JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    header, _, body = answer.partition(b"\r\n\r\n")
    is_json = b"application/json" in header
    return int(header.split()[1]), header, json.loads(body) if is_json else body.decode()


def request(
    method: str = "GET",
    path: str = "/v1/models",
    *,
    host: str = "127.0.0.1",
    token: str | None = TOKEN,
    body: bytes = b"",
    length: str | None = None,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body or length:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
async def engine(direct_engine):
    return await direct_engine(text="Hello from the script.", repeat=3)


@pytest.fixture
def server(engine) -> Iterator[EngineServer]:
    with engine.serve(token=TOKEN) as server:
        yield server


async def test_openais_client_works(engine, server, tiny_model):
    async with client_of(server) as client:
        (model,) = (await client.models.list()).data
        assert model.id == str(tiny_model)
        ask = client.chat.completions.create
        answer = await ask(model=model.id, n=2, **HELLO)
        expected = await engine.chat.completions.create(n=2, **HELLO)
        assert [c.message.content for c in answer.choices] == [
            c.message.content for c in expected.choices
        ]
        assert answer.usage == expected.usage or answer.usage.total_tokens > 0
        assert answer._request_id == answer.id
        stream = await ask(
            model=model.id, stream=True, stream_options={"include_usage": True}, **HELLO
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == expected.choices[0].message.content
        assert chunks[-1].usage.completion_tokens > 0
        completion = await client.completions.create(model=model.id, prompt="Hi")
        assert completion.choices[0].text


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"extra_body": {"no_such_field": 1}}, openai.BadRequestError, "no_such_field"),
        ({"model": "another"}, openai.NotFoundError, "model"),
    ],
)
async def test_a_refusal_has_openais_shape(server, tiny_model, fields, error, param):
    async with client_of(server) as client:
        with pytest.raises(error) as raised:
            await client.chat.completions.create(**{"model": str(tiny_model), **HELLO, **fields})
    assert raised.value.param == param


async def test_an_error_within_a_stream_reaches_the_client(direct_engine, tiny_model):
    engine = await direct_engine(fail_after=2)
    async with client_of(engine.serve()) as client:
        stream = await client.chat.completions.create(model=str(tiny_model), stream=True, **HELLO)
        with pytest.raises(openai.APIError) as raised:
            async for _ in stream:
                pass
    assert InternalEngineError.__name__ in str(raised.value.body)


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ({"token": None}, 401, "invalid_api_key"),
        ({"token": TOKEN[:-1]}, 401, "invalid_api_key"),
        ({"token": TOKEN + "x"}, 401, "invalid_api_key"),
        ({"token": "é"}, 401, "invalid_api_key"),
        ({"token": None, "path": "/metrics"}, 401, "invalid_api_key"),
        ({"token": None, "path": "/health", "method": "POST"}, 401, "invalid_api_key"),
        ({"token": None, "path": "/health/"}, 401, "invalid_api_key"),
        ({"host": "attacker.example", "path": "/health"}, 403, "forbidden_host"),
        ({"host": "attacker.example"}, 403, "forbidden_host"),
        ({"host": "localhost.attacker.example:80"}, 403, "forbidden_host"),
        ({"host": "127.0.0.1.attacker.example"}, 403, "forbidden_host"),
        ({"host": "[::1"}, 403, "forbidden_host"),
        ({"path": "/v2/models"}, 404, "unknown_url"),
        ({"path": "/"}, 404, "unknown_url"),
        ({"path": "/\x9b2J"}, 404, "unknown_url"),
        ({"path": f"/{'x' * 50_000}"}, 404, "unknown_url"),
        ({"path": f"/v1/models/{'x' * 50_000}"}, 404, "model_not_loaded"),
        ({"path": f"/v1/responses/{'x' * 50_000}"}, 404, None),
        ({"method": "DELETE"}, 405, "method_not_supported"),
        ({"method": "OPTIONS"}, 405, "method_not_supported"),
        ({"method": "POST", "path": "/v1/completions", "body": b"{"}, 400, None),
        ({"method": "POST", "path": "/v1/completions", "body": b"[" * 9999}, 400, None),
        ({"method": "POST", "path": "/v1/completions", "body": b'{"\\ud800": 1}'}, 400, None),
        ({"method": "POST", "path": "/v1/completions", "body": b'{"\\u001b[2J": 1}'}, 400, None),
    ],
)
async def test_a_bad_request_is_refused(server, header, status, code):
    got, head, body = await exchange(server, request(**header))
    assert got == status
    assert code is None or body["error"]["code"] == code
    assert body["error"]["message"].isprintable()
    assert len(str(body)) < 1000
    assert TOKEN not in str(body)
    assert b"access-control" not in head.lower()


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_an_unknown_method_is_no_failure_of_the_server(server, caplog, token):
    status, head, body = await exchange(server, request("PROPFIND", token=token))
    assert (status, body["error"]["code"]) == (405, "method_not_supported")
    assert b"\r\nAllow: GET, " in head
    assert caplog.records == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "[::1]"])
async def test_loopbacks_names_are_known(server, host):
    status, _, body = await exchange(server, request(host=host))
    assert status == 200
    assert body["object"] == "list"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_refused_before_it_is_kept(server, announced):
    header = request("POST", "/v1/completions", length=str(LIMITS.input_bytes + 1))
    if announced:
        status, _, body = await exchange(server, header)
    else:
        chunked = header.replace(
            f"Content-Length: {LIMITS.input_bytes + 1}".encode(), b"Transfer-Encoding: chunked"
        )
        piece = b"%x\r\n%s\r\n" % (2**20, b" " * 2**20)
        sent = chunked + piece * (LIMITS.input_bytes // 2**20) + b"1\r\n \r\n"
        status, _, body = await exchange(server, sent)
    assert status == 413
    assert body["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("token", [None, "wrong", TOKEN])
async def test_health_needs_no_token_and_says_only_that_the_server_is_there(
    server, token, monkeypatch
):
    for length in (None, "1000"):  # a body is not waited for
        sent = request(path="/health", token=token, length=length)
        status, head, body = await exchange(server, sent)
        assert (status, body) == (200, {"status": "ok"})
        assert b"access-control" not in head.lower()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(request("HEAD", "/health", token=token))
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
    [served] = server._listener._all_served()
    assert not served.accepted
    monkeypatch.setattr(server._listener, "_http", None)  # as while it is being closed
    status, _, body = await exchange(server, request(path="/health", token=token))
    assert (status, body["error"]["code"]) == (503, "server_closing")
    monkeypatch.undo()


async def test_without_the_token_no_body_is_read(server):
    # The body never comes, so that only the header can have been judged.
    status, _, _ = await exchange(
        server, request("POST", "/v1/completions", token="wrong" * 5, length="1000")
    )
    assert status == 401


async def test_a_length_of_thousands_of_digits_is_too_large(server):
    status, _, body = await exchange(server, request("POST", "/v1/completions", length="9" * 5000))
    assert (status, body["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("module", [handling, listening], ids=["one engine", "all"])
async def test_bodies_that_are_held_have_a_limit(engine, monkeypatch, module):
    budget = BodyBudget(1000)
    monkeypatch.setattr(module, "BodyBudget", lambda _: budget)
    server = engine.serve(token=TOKEN)
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(request("POST", "/v1/completions", body=b" " * 600, length="900"))
    await until(lambda: budget.held == 600)

    async def status() -> int:
        return (await exchange(server, request("POST", "/v1/completions", body=b" " * 600)))[0]

    assert await status() == 429
    assert budget.held == 600
    writer.close()
    await until(lambda: budget.held == 0)
    assert await status() == 400  # it is no JSON
    await until(lambda: budget.held == 0)  # the answer comes before its request is forgotten


async def test_requests_count_while_their_bodies_come(engine, monkeypatch):
    monkeypatch.setattr(handling, "MAX_REQUESTS", 2)
    server = engine.serve(token=TOKEN)
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request("POST", "/v1/completions", length="1000"))
        writers.append(writer)

    [served] = server._listener._all_served()
    accepted = served.accepted
    await until(lambda: len(accepted) == 2)
    assert (await exchange(server, request()))[0] == 429
    for writer in writers:
        writer.close()
    await until(lambda: not accepted)
    assert (await exchange(server, request()))[0] == 200


async def test_connections_beyond_the_limit_are_ended_at_once(engine, monkeypatch):
    monkeypatch.setattr(listening, "most_connections", lambda: 1)
    server = engine.serve(token=TOKEN)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(request().replace(b"Connection: close\r\n", b""))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    other, unanswered = await asyncio.open_connection("127.0.0.1", port_of(server))
    assert await asyncio.wait_for(other.read(), 60) == b""
    unanswered.close()
    writer.close()

    async def is_answered() -> bool:
        again, asking = await asyncio.open_connection("127.0.0.1", port_of(server))
        with contextlib.suppress(ConnectionError):
            asking.write(request())
            return (await again.read()).startswith(b"HTTP/1.1 200")
        return False

    await until(is_answered)


@pytest.mark.parametrize(("files", "most"), [(256, 128), (2**20, 4096), (-1, 4096)])
def test_connections_leave_files_for_the_rest_of_the_process(monkeypatch, files, most):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert listening.most_connections() == most


async def unread_stream(direct_engine):
    """A stream whose client reads nothing: its engine, its server and the connection."""
    engine = await direct_engine(text="word " * 200, repeat=20_000)
    server = engine.serve(token=TOKEN)
    body = json.dumps({**HELLO, "stream": True}).encode()
    reader, writer = await unread(server)
    writer.write(request("POST", "/v1/chat/completions", body=body))
    await until_running(engine)
    return engine, server, reader, writer


async def test_a_client_that_reads_nothing_is_left_without_a_traceback(
    direct_engine, monkeypatch, caplog
):
    monkeypatch.setattr(handling, "_UNREAD_S", 0.05)
    engine, server, reader, writer = await unread_stream(direct_engine)
    await until_idle(engine)
    with contextlib.suppress(ConnectionError):
        while await reader.read(2**20):
            pass
    writer.close()
    assert (await exchange(server, request()))[0] == 200
    assert not [r for r in caplog.records if r.name.startswith(("tornado", "mlc_widget.api.serv"))]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(direct_engine, stream):
    engine = await direct_engine(hang_after=1)
    server = engine.serve(token=TOKEN)
    body = json.dumps({**HELLO, "stream": stream}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(request("POST", "/v1/chat/completions", body=body))
    await until_running(engine)
    writer.close()
    await until_idle(engine)


async def test_too_many_requests_are_refused_and_counted_right(direct_engine, monkeypatch):
    monkeypatch.setattr(handling, "MAX_REQUESTS", 2)
    engine = await direct_engine(hang_after=1)
    server = engine.serve(token=TOKEN)
    body = json.dumps(HELLO).encode()
    writers = []
    for running in (1, 2):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request("POST", "/v1/chat/completions", body=body))
        await until_running(engine, running)
        writers.append(writer)
    status, head, _ = await exchange(server, request())
    assert status == 429
    assert b"retry-after" in head.lower()
    for writer in writers:
        writer.close()
    await until_idle(engine)
    assert (await exchange(server, request()))[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/models", 200), ("/metrics", 200), ("/v1/models/x", 404), ("/v1/completions", 405)],
)
async def test_head_gives_the_headers_of_get(server, path, status):
    heads = []
    for method in ("GET", "HEAD"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request(method, path))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert bool(body) is (method == "GET")
        changing = (b"Date: ", b"X-Request-Id: ")
        heads.append([line for line in head.split(b"\r\n") if not line.startswith(changing)])
    assert heads[0] == heads[1]
    assert heads[0][0].startswith(b"HTTP/1.1 %d " % status)


async def test_metrics_are_prometheus_text(engine, server):
    await engine.chat.completions.create(**HELLO)
    status, head, text = await exchange(server, request(path="/metrics"))
    assert status == 200
    assert b"text/plain; version=0.0.4" in head
    assert "\nfinished_requests 1\n" in text
    assert "# TYPE mlc_widget_waiting_requests gauge\nmlc_widget_waiting_requests 0\n" in text
    samples = [line.split()[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))


async def test_the_token_is_shown_nowhere(server):
    assert TOKEN not in repr(server)
    with pytest.raises(BadRequestError) as raised:
        EngineServer(None, None, host="", port=0, token=" " + TOKEN, allow_remote=False)  # type: ignore[arg-type]
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "example.org"}, "host"),
        ({"host": ""}, "host"),
        ({"port": -1}, "port"),
        ({"port": 70000}, "port"),
        ({"port": "80"}, "port"),
        ({"token": "short"}, "token"),
        ({"token": "ä" * 20}, "token"),
        ({"token": 5}, "token"),
    ],
)
async def test_bad_options_are_refused(engine, options, param):
    with pytest.raises(BadRequestError) as raised:
        engine.serve(**options)
    assert raised.value.param == param


async def test_a_taken_port_is_named(engine, server):
    with pytest.raises(BadRequestError, match=str(port_of(server))):
        engine.serve(port=port_of(server))


async def test_other_machines_need_to_be_allowed_and_the_token_all_the_same(engine):
    with engine.serve(host="0.0.0.0", allow_remote=True) as server:
        assert len(server.token) > 40
        assert (await exchange(server, request(host="a.name")))[0] == 401
        ours = request(host="a.name", token=server.token)
        assert (await exchange(server, ours))[0] == 200


async def test_the_port_closes_with_the_engine(direct_engine):
    engine = await direct_engine()
    server = engine.serve(token=TOKEN)
    assert (await exchange(server, request()))[0] == 200
    await engine.terminate()
    assert "closed" in repr(server)
    with pytest.raises(ConnectionRefusedError):
        await exchange(server, request())
    server.close()


async def test_a_blocking_engine_serves_and_a_dropped_one_closes_its_port(tiny_model):
    from mlc_widget import MLCEngine

    engine = MLCEngine(runtime="scripted")
    await asyncio.to_thread(engine.reload, str(tiny_model))
    server = engine.serve(token=TOKEN)
    assert (await exchange(server, request()))[0] == 200
    port = port_of(server)
    del engine, server
    gc.collect()
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                break
            writer.close()
            await asyncio.sleep(0.01)


async def test_closing_waits_for_a_running_answer(direct_engine, tiny_model):
    engine = await direct_engine(hang_after=2)
    server = engine.serve()
    async with client_of(server) as client:
        stream = await client.chat.completions.create(model=str(tiny_model), stream=True, **HELLO)
        await anext(aiter(stream))
        closing = asyncio.create_task(asyncio.to_thread(server.close))
        await engine.interrupt_generate()
        rest = [chunk async for chunk in stream]
        await closing
    assert rest[-1].choices[0].finish_reason == "abort"


async def events_of(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_closing_ends_what_is_left_with_an_error(direct_engine, tiny_model, monkeypatch):
    monkeypatch.setattr(listening, "_CLOSE_S", 0.0)
    engine = await direct_engine(text="one two three", hang_after=2)
    server = engine.serve(token=TOKEN)
    body = json.dumps(HELLO).encode()
    async with client_of(server) as client:
        stream = await client.chat.completions.create(model=str(tiny_model), stream=True, **HELLO)
        await anext(aiter(stream))
        whole = asyncio.create_task(
            exchange(server, request("POST", "/v1/chat/completions", body=body))
        )
        sending = asyncio.create_task(
            exchange(server, request("POST", "/v1/completions", length="1000"))
        )
        await until_running(engine, 2)
        [served] = server._listener._all_served()
        await until(lambda: len(served.accepted) == 3)
        closing = asyncio.create_task(asyncio.to_thread(server.close))
        with pytest.raises(openai.APIError, match="is being closed") as raised:
            await events_of(stream)
        assert raised.value.code == "server_closing"
        for asked in (whole, sending):
            status, _, said = await asked
            assert (status, said["error"]["code"]) == (503, "server_closing")
        await closing
    await until_idle(engine)


async def test_closing_does_not_wait_for_a_client_that_reads_nothing(direct_engine, monkeypatch):
    monkeypatch.setattr(listening, "_CLOSE_S", 0.0)
    monkeypatch.setattr(listening, "_LAST_WORDS_S", 0.0)
    engine, server, reader, writer = await unread_stream(direct_engine)
    await asyncio.wait_for(asyncio.to_thread(server.close), 60)
    await until_idle(engine)
    with contextlib.suppress(ConnectionError):
        while await reader.read(2**20):
            pass
    writer.close()


async def test_while_it_closes_nothing_new_is_begun(direct_engine, tiny_model):
    engine = await direct_engine(hang_after=2)
    server = engine.serve(token=TOKEN)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    kept = request().replace(b"Connection: close\r\n", b"")
    writer.write(kept)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    async with client_of(server) as client:
        stream = await client.chat.completions.create(model=str(tiny_model), stream=True, **HELLO)
        await anext(aiter(stream))
        closing = asyncio.create_task(asyncio.to_thread(server.close))
        await until(lambda: server._listener._http is None)
        writer.write(kept)
        rest = await asyncio.wait_for(reader.read(), 60)
        assert b"HTTP/1.1 503" in rest
        assert b"Connection: close" in rest
        await engine.interrupt_generate()
        assert (await events_of(stream))[-1].choices[0].finish_reason == "abort"
        await closing
    writer.close()

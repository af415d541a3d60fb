"""A server that misbehaves: every request ends with an answer or with one clear error."""

from __future__ import annotations

import asyncio
import json
import traceback

import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    MLCEngineError,
    ModelNotFoundError,
    ModelNotLoadedError,
    ProtocolError,
    ServerError,
    UnsupportedFieldError,
)
from mlc_widget.api.json_body import JsonBounds
from mlc_widget.server_engine import connection, events, exchange

from ..waiting import until
from .stand_in import CHAT, DONE, STREAM, WHOLE, answer, chunk, event, hang, sends, then_hang

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
KEY = "sk-secret-0123456789"
GZIPPED = {"Content_Encoding": "gzip"}
CHOICE = WHOLE["choices"][0]


def whole(**changes):
    return answer({**WHOLE, **changes})


def choice(**changes):
    return whole(choices=[{**CHOICE, **changes}])


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT_S", 0.0)


@pytest.mark.parametrize(
    ("sent", "error", "said"),
    [
        (
            answer({"error": {"message": "no, temperature", "param": "temperature"}}, 400),
            BadRequestError,
            "no, temperature",
        ),
        (answer({"detail": [{"loc": ["body", "x"]}]}, 422), BadRequestError, "body"),
        (
            answer({"error": {"message": "x", "code": "context_length_exceeded"}}, 400),
            ContextLengthExceededError,
            "x",
        ),
        (
            answer({"message": "the maximum context length is 9"}, 400),
            ContextLengthExceededError,
            "9",
        ),
        (answer({"error": {"message": f"Incorrect key: {KEY}"}}, 401), ServerError, "api_key_env"),
        (answer({"error": "no"}, 403), ServerError, "api_key_env"),
        (
            answer({"error": {"message": "The model `m` does not exist"}}, 404),
            ModelNotLoadedError,
            "`m`",
        ),
        (answer(b"<h1>nope</h1>", 404, kind="text/html"), ServerError, "no /v1/chat/completions."),
        (
            answer({"error": {"message": "slow down"}}, 429, Retry_After="3600"),
            ServerError,
            "3600 s",
        ),
        (answer({"error": {"message": "boom\x1b[2J"}}, 500), ServerError, "boom"),
        (answer(b"", 500), ServerError, "500"),
        (answer([[]], 503), ServerError, "503"),
        (
            answer(b"", 302, Location="http://evil.example/v1"),
            ServerError,
            "redirects to http://evil.example",
        ),
        (answer(b"", 307), ServerError, "redirects"),
        (answer(b"<html>", kind="text/html"), ProtocolError, "text/html"),
        (answer(b"", kind=""), ProtocolError, "application/json"),
        (answer(b"{}", **GZIPPED), ProtocolError, "compresses"),
        (answer(b"{"), ProtocolError, "not JSON"),
        (answer(b"[" * 100_000), ProtocolError, "not JSON"),
        (answer(b"\xff\xfe\xff"), ProtocolError, "not JSON"),
        (answer(b'{"choices": NaN}'), ProtocolError, "not JSON"),
        (answer({}), ProtocolError, "choices"),
        (answer([]), ProtocolError, "shape"),
        (whole(choices=5), ProtocolError, "choices"),
        (whole(choices=[[]]), ProtocolError, "choices.0"),
        (choice(message={"content": 5}), ProtocolError, "content"),
        (choice(message={"tool_calls": [{"id": 5}]}), ProtocolError, "tool_calls"),
        (choice(index=-1), ProtocolError, "index"),
        (choice(index=10**9), ProtocolError, "index"),
        (choice(logprobs={"content": [{"token": "x"}]}), ProtocolError, "logprob"),
        (whole(usage={"prompt_tokens": -1}), ProtocolError, "prompt_tokens"),
        (whole(choices=[]), ProtocolError, "0 choices instead of 1"),
        (whole(choices=[CHOICE, CHOICE]), ProtocolError, "twice"),
        (choice(logprobs={"content": [{"token": "x", "logprob": 1e999}]}), ProtocolError, "JSON"),
        (
            answer(json.dumps(WHOLE).replace("5}", "1e999}").encode()),
            ProtocolError,
            "total_tokens",
        ),
        (
            choice(logprobs={"top_logprobs": [{"\x1b[2J" * 100: "x"}]}),
            ProtocolError,
            r"top_logprobs.0.\x1b[2J",
        ),
        (answer(json.dumps(WHOLE).encode("utf-16")), ProtocolError, "not JSON"),
        (answer(b"", 302, Location=f"http://h/?key={KEY}"), ServerError, "?key=(the key)"),
        (answer(b"", kind=KEY), ProtocolError, "'(the key)'"),
        (answer(b"{}", Content_Length="5000"), ServerError, "closed the connection"),
        (b"nonsense\r\n\r\n", ServerError, "closed the connection"),
        (
            b"HTTP/1.1 200 X\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
            ServerError,
            "closed the connection",
        ),
        (b"", ServerError, "closed the connection"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_answer_is_one_error(
    stand_in, engine_on, monkeypatch, sent, error, said, stream
):
    monkeypatch.setenv("THE_KEY", KEY)
    engine = await engine_on(stand_in.url, api_key_env="THE_KEY")
    stand_in.handlers[CHAT] = sends(sent)
    if stream and b" 200 X" in sent[:20]:
        error, said = (ProtocolError, "text/event-stream") if b"json" in sent[:60] else (error, "")
    with pytest.raises(MLCEngineError) as raised:
        await engine.chat.completions.create(stream=stream, **HELLO)
    assert type(raised.value) is error
    assert said in raised.value.message
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert raised.value.message.isprintable()
    assert (await engine.metrics())["running_requests"] == 0
    stand_in.handlers[CHAT] = sends(answer(WHOLE))
    assert (await engine.chat.completions.create(**HELLO)).choices[0].message.content == "Hi"


@pytest.mark.parametrize(
    ("pieces", "error", "said"),
    [
        ([chunk({"content": "a"})], ServerError, "closed the connection"),
        ([], ServerError, "closed the connection"),
        ([chunk({"content": "a"}), DONE], ProtocolError, "finish reason"),
        ([DONE], ProtocolError, "0 choices instead of 1"),
        ([event(b"{")], ProtocolError, "not JSON"),
        ([event(b"5")], ProtocolError, "shape"),
        ([event(b"null")], ProtocolError, "empty event"),
        ([event({"error": {"message": "out of memory"}})], ServerError, "out of memory"),
        ([event({"error": "gone"})], ServerError, "gone"),
        ([event({"object": "error", "message": "gone"})], ServerError, "gone"),
        ([b'error: {"code": 500, "message": "gone"}\n\n'], ServerError, "gone"),
        ([event({"choices": [{"delta": 5}]})], ProtocolError, "delta"),
        (
            [event({"choices": [{"delta": {"tool_calls": [{"index": -5}]}}]})],
            ProtocolError,
            "index",
        ),
        ([b"data: " + b"a" * (events.MAX_EVENT_BYTES + 1)], ProtocolError, "event of more"),
        ([b"data: a\n" * (events.MAX_EVENT_BYTES // 8 + 1)], ProtocolError, "event of more"),
        ([b"\x00" * 10_000, b"\n\n"], ServerError, "closed the connection"),
    ],
)
async def test_a_broken_stream_is_one_error(stand_in, engine_on, pieces, error, said):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = sends(STREAM, *pieces)
    stream = await engine.chat.completions.create(stream=True, **HELLO)
    with pytest.raises(MLCEngineError) as raised:
        async for _ in stream:
            pass
    assert type(raised.value) is error
    assert said in raised.value.message
    assert (await engine.metrics())["running_requests"] == 0


async def test_an_address_without_models_is_named(stand_in, engine_on):
    del stand_in.handlers["/v1/models"]
    with pytest.raises(ServerError, match="usually ends in /v1"):
        await engine_on(stand_in.url)


@pytest.mark.parametrize("marked", [True, False])
async def test_a_stream_whose_choices_have_ended_is_whole(stand_in, engine_on, marked):
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    end = [DONE] if marked else []  # transformers' server sends none
    stand_in.handlers[CHAT] = sends(STREAM, chunk({"content": "Hi"}), last, *end)
    engine = await engine_on(stand_in.url)
    stream = await engine.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **HELLO
    )
    chunks = [each async for each in stream]
    assert [choice.finish_reason for each in chunks for choice in each.choices] == [None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 4


async def test_a_stream_without_one_of_its_choices_is_broken(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = sends(STREAM, chunk({"content": "Hi"}, "stop"))
    stream = await engine.chat.completions.create(stream=True, n=2, **HELLO)
    with pytest.raises(ServerError, match="closed the connection"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("key", [KEY, "sk/a+b/c"])
async def test_a_key_that_a_server_repeats_is_not_shown(stand_in, engine_on, monkeypatch, key):
    monkeypatch.setenv("THE_KEY", key)
    engine = await engine_on(stand_in.url, api_key_env="THE_KEY")
    escaped = "".join(f"\\u{ord(one):04x}" for one in key)
    for written in (key, key.replace("/", "\\/"), key.replace("+", "\\u002B"), escaped):
        error = b'{"error": {"message": "Incorrect key: %b"}}' % written.encode()
        for stream, sent in ((True, STREAM + event(error)), (False, answer(error, 401))):
            stand_in.handlers[CHAT] = sends(sent)
            with pytest.raises(ServerError, match=r"Incorrect key: \(the key\)") as raised:
                answered = await engine.chat.completions.create(stream=stream, **HELLO)
                async for _ in answered:
                    pass
            assert key not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("key", ["error", "message", "{"])
async def test_a_key_that_is_a_part_of_json_breaks_no_error(stand_in, engine_on, monkeypatch, key):
    monkeypatch.setenv("THE_KEY", key)
    engine = await engine_on(stand_in.url, api_key_env="THE_KEY")
    stand_in.handlers[CHAT] = sends(STREAM, event({"error": {"message": "gone"}}))
    with pytest.raises(ServerError, match="gone"):
        async for _ in await engine.chat.completions.create(stream=True, **HELLO):
            pass


async def test_a_whole_stream_is_bounded(stand_in, engine_on, monkeypatch):
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 10_000)
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = sends(STREAM, *[chunk({"content": "a" * 1000})] * 20)
    stream = await engine.chat.completions.create(stream=True, **HELLO)
    with pytest.raises(ProtocolError, match="10000 bytes"):
        async for _ in stream:
            pass
    stand_in.handlers[CHAT] = sends(answer(b" " * 20_000))
    with pytest.raises(ProtocolError, match="10000 bytes"):
        await engine.chat.completions.create(**HELLO)


async def test_no_choice_is_longer_than_what_a_model_writes(stand_in, engine_on, monkeypatch):
    monkeypatch.setattr(exchange, "_MAX_TEXT", 100)
    engine = await engine_on(stand_in.url)
    arguments = [{"index": 0, "id": "x", "function": {"name": "f", "arguments": "1" * 60}}]
    for said in ({"content": "[]" * 30}, {"reasoning": "a" * 60}, {"tool_calls": arguments}):
        stand_in.handlers[CHAT] = sends(STREAM, chunk(said), chunk(said, "stop"), DONE)
        with pytest.raises(ProtocolError, match="100 characters"):
            async for _ in await engine.chat.completions.create(stream=True, **HELLO):
                pass
    stand_in.handlers[CHAT] = sends(choice(message={"content": "[]" * 60}))
    with pytest.raises(ProtocolError, match="100 characters"):
        await engine.chat.completions.create(**HELLO)


async def test_an_answer_with_calls_need_not_be_json(stand_in, engine_on):
    call = {"id": "x", "function": {"name": "f", "arguments": "{}"}}
    stand_in.handlers[CHAT] = sends(choice(message={"tool_calls": [call]}))  # it says "stop"
    engine = await engine_on(stand_in.url)
    answered = await engine.chat.completions.create(
        **HELLO, response_format={"type": "json_object"}
    )
    assert answered.choices[0].message.tool_calls[0].id == "x"


async def test_an_answer_of_too_many_parts_is_not_parsed(stand_in, engine_on, monkeypatch):
    monkeypatch.setattr(connection, "_BOUNDS", JsonBounds(100_000, 20_000, 20_000))
    engine = await engine_on(stand_in.url)
    parts = b"[" + b"[]," * 30_000 + b"[]]"
    for stream, sent in ((False, answer(parts)), (True, STREAM + event(parts))):
        stand_in.handlers[CHAT] = sends(sent)
        with pytest.raises(ProtocolError, match="has 30002 objects and arrays"):
            async for _ in await engine.chat.completions.create(stream=stream, **HELLO):
                pass


@pytest.mark.parametrize(
    "handler",
    [
        hang,
        then_hang(b"HTTP/1.1 200 X\r\n"),
        then_hang(answer(b"{", Content_Length="100")),
        then_hang(STREAM),
        then_hang(STREAM, chunk({"content": "a"})),
    ],
)
async def test_silence_ends_after_the_timeout(stand_in, engine_on, handler):
    engine = await engine_on(stand_in.url)
    engine._core._connection._timeout = 0.2
    stand_in.handlers[CHAT] = handler
    with pytest.raises(MLCEngineError) as raised:
        stream = await engine.chat.completions.create(stream=True, **HELLO)
        async for _ in stream:
            pass
    assert raised.value.code in ("server_timeout", "protocol_error")


async def test_comments_are_no_answer(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    engine._core._connection._timeout = 0.3

    async def comment(seen, send):
        await send(STREAM)
        while True:
            await send(b": wait\n\n")
            await asyncio.sleep(0.01)

    stand_in.handlers[CHAT] = comment
    stream = await engine.chat.completions.create(stream=True, **HELLO)
    with pytest.raises(ServerError, match=r"0\.3 s"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(stand_in, engine_on, status):
    engine = await engine_on(stand_in.url)
    tries = []

    async def busy(seen, send):
        tries.append(seen)
        refused = answer({"error": {"message": "busy"}}, status, Retry_After="0")
        await send(refused if len(tries) < 3 else answer(WHOLE))

    stand_in.handlers[CHAT] = busy
    assert (await engine.chat.completions.create(**HELLO)).choices[0].message.content == "Hi"
    tries[:] = []
    stand_in.handlers[CHAT] = sends(answer({"error": {"message": "busy"}}, status))
    with pytest.raises(ServerError, match="busy"):
        await engine.chat.completions.create(**HELLO)


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_closes_the_connection(stand_in, engine_on, stream):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = then_hang(STREAM, chunk({"content": "a"})) if stream else hang
    if stream:
        chunks = await engine.chat.completions.create(stream=True, **HELLO)
        assert (await anext(chunks)).choices[0].delta.content == "a"
        await chunks.aclose()
    else:
        asking = asyncio.ensure_future(engine.chat.completions.create(**HELLO))
        await until(lambda: len(stand_in.seen) == 3)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    async with asyncio.timeout(60):
        await stand_in.left.wait()
    assert (await engine.metrics())["running_requests"] == 0


@pytest.mark.parametrize("by", ["interrupt", "abort"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_interrupt_ends_requests_with_what_there_is(stand_in, engine_on, stream, by):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = then_hang(STREAM, chunk({"content": "a"})) if stream else hang
    asked = {**HELLO, "request_id": "mine", "stream": stream}
    asking = asyncio.ensure_future(engine.chat.completions.create(**asked))
    await until(lambda: len(stand_in.seen) == 3)
    if stream:
        chunks = await asking
        assert (await anext(chunks)).id == "mine"
    await (engine.interrupt_generate() if by == "interrupt" else engine.abort("mine"))
    if stream:
        (last,) = [chunk async for chunk in chunks]
        assert last.choices[0].finish_reason == "abort"
        assert await engine.get_message() == "a"
    else:
        assert (await asking).choices[0].finish_reason == "abort"
    await stand_in.left.wait()


async def test_a_stream_that_is_never_read_is_closed(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = then_hang(STREAM, chunk({"content": "a"}))
    asked = {"model": "m", "messages": HELLO["messages"], "stream": True}

    async def open_and_close() -> None:
        stream = await engine.link.open_stream("chat", asked)
        await stream.aclose()

    await asyncio.wrap_future(engine.link.submit(open_and_close()))
    async with asyncio.timeout(60):
        await stand_in.left.wait()
    assert (await engine.metrics())["running_requests"] == 0


async def test_cookies_are_not_kept(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    for _ in range(2):
        stand_in.handlers[CHAT] = sends(answer(WHOLE, Set_Cookie="who=you"))
        await engine.chat.completions.create(**HELLO)
    assert "cookie" not in stand_in.seen[-1].headers


async def test_terminate_ends_requests_with_its_error(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    stand_in.handlers[CHAT] = then_hang(STREAM, chunk({"content": "a"}))
    stream = await engine.chat.completions.create(stream=True, **HELLO)
    await anext(stream)
    stand_in.handlers[CHAT] = hang
    asking = asyncio.ensure_future(engine.chat.completions.create(**HELLO))
    await until(lambda: len(stand_in.seen) == 4)
    await engine.terminate()
    for work in (asking, anext(stream), engine.chat.completions.create(**HELLO)):
        with pytest.raises(MLCEngineError) as raised:
            await work
        assert raised.value.code == "engine_terminated"
    assert engine.state == "terminated"


async def test_what_the_server_ignored_is_named(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    ask = engine.chat.completions.create
    for fields, param in (
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ):
        stand_in.handlers[CHAT] = sends(answer(WHOLE))
        with pytest.raises(UnsupportedFieldError) as raised:
            await ask(**HELLO, **fields)
        assert raised.value.param == param
        stand_in.handlers[CHAT] = sends(STREAM, chunk({"content": "Hi"}, "stop"), DONE)
        stream = await ask(**HELLO, **fields, stream=True)
        with pytest.raises(UnsupportedFieldError) as raised:
            async for _ in stream:
                pass
        assert raised.value.param == param


async def test_tool_calls_of_all_dialects_have_one_shape(stand_in, engine_on):
    engine = await engine_on(stand_in.url)

    def call(arguments, **more):
        return chunk({"tool_calls": [{"function": {"name": "f", "arguments": arguments}, **more}]})

    stand_in.handlers[CHAT] = sends(
        STREAM,
        call('{"a"', index=1, id="x"),
        call(": 1}", index=1, id="x"),  # as some repeat it
        call("{}", index=3),  # without an id
        chunk({"reasoning": "hm"}),
        chunk({}, "tool_calls"),
        DONE,
    )
    tool = {"type": "function", "function": {"name": "f"}}
    stream = await engine.chat.completions.create(stream=True, tools=[tool], **HELLO)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert [(c.index, c.function.name, c.function.arguments) for c in calls] == [
        (0, "f", '{"a"'),
        (0, None, ": 1}"),
        (1, "f", "{}"),
    ]
    assert calls[0].id == "x"
    assert calls[2].id
    assert deltas[3].reasoning_content == "hm"


async def test_what_is_null_or_empty_is_as_if_it_were_missing(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    call = {"function": {"name": "f", "arguments": None}, "id": None}
    usage = {"prompt_tokens": 3, "completion_tokens": None}
    message = {"content": None, "tool_calls": [call]}
    stand_in.handlers[CHAT] = sends(
        whole(choices=[{"index": None, "message": message, "finish_reason": "stop"}], usage=usage)
    )
    answered = await engine.chat.completions.create(**HELLO)
    [made] = answered.choices[0].message.tool_calls
    assert made.id
    assert (made.function.arguments, answered.usage.prompt_tokens) == ("", 3)
    stand_in.handlers[CHAT] = sends(
        b"\xef\xbb\xbf".join([STREAM, chunk({"content": "a\ud800"}, "")]),
        event({"choices": [{"delta": None, "finish_reason": "stop"}]}),
        event({"choices": None, "usage": usage}),
        DONE,
    )
    chunks = [c async for c in await engine.chat.completions.create(stream=True, **HELLO)]
    first, last = (chunk.choices[0] for chunk in chunks)
    assert (first.delta.content, first.finish_reason) == ("a\ufffd", None)
    assert last.finish_reason == "stop"


async def test_usage_comes_at_the_end_and_only_if_asked_for(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    stand_in.handlers[CHAT] = sends(STREAM, chunk({"content": "a"}), chunk({}, "stop"), usage, DONE)
    ask = engine.chat.completions.create
    chunks = [c async for c in await ask(stream=True, **HELLO)]
    assert [c.usage for c in chunks] == [None, None]
    asked = {"include_usage": True}
    chunks = [c async for c in await ask(stream=True, stream_options=asked, **HELLO)]
    assert chunks[-1].usage.prompt_tokens == 3
    assert chunks[-1].usage.extra["time_to_first_token_s"] > 0
    assert "tokens/sec" in await engine.runtime_stats_text()


@pytest.mark.parametrize(
    ("listed", "wanted", "error", "said"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, None, BadRequestError, "'a', 'b'"),
        ({"data": []}, None, ModelNotFoundError, "no models"),
        ({"data": [{"id": "a"}]}, "b", ModelNotFoundError, "it has 'a'"),
        ({"data": [{"id": f"m{i}"} for i in range(100)]}, "b", ModelNotFoundError, "80 more"),
        ({"data": [{"id": "a\x1b[2J"}]}, "b", ModelNotFoundError, r"a\x1b"),
        ({"data": [{"id": "a\x1b[2J"}]}, None, ProtocolError, r"a\x1b[2J"),
        ({"data": [{"id": ""}]}, None, ProtocolError, "id"),
        ({"data": {}}, None, ProtocolError, "data"),
        ({}, "b", ProtocolError, "data"),
    ],
)
async def test_a_model_that_is_not_there(stand_in, engine_on, listed, wanted, error, said):
    stand_in.handlers["/v1/models"] = sends(answer(listed))
    engine = await engine_on(stand_in.url, load=False)
    with pytest.raises(error) as raised:
        await engine.reload(wanted)
    assert said in raised.value.message
    assert (engine.state, engine.link.snapshot.error.code) == ("idle", raised.value.code)


async def test_a_failed_reload_leaves_the_model(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    with pytest.raises(ModelNotFoundError):
        await engine.reload("another")
    assert (engine.state, engine.model_id) == ("ready", "m")
    assert engine.link.snapshot.failed.model_id == "another"
    assert (await engine.chat.completions.create(**HELLO)).choices[0].message.content == "Hi"


async def test_a_server_that_is_not_there(engine_on, unused_tcp_port):
    engine = await engine_on(f"http://127.0.0.1:{unused_tcp_port}", load=False)
    with pytest.raises(ServerError, match="cannot be reached") as raised:
        await engine.reload()
    assert raised.value.code == "server_unreachable"


async def test_the_key_goes_to_its_server_only(stand_in, engine_on, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    plain = await engine_on(stand_in.url)
    assert all("authorization" not in seen.headers for seen in stand_in.seen)
    stand_in.seen.clear()
    engine = await engine_on(stand_in.url, api_key_env="THE_KEY")
    await engine.chat.completions.create(**HELLO)
    assert {seen.headers["authorization"] for seen in stand_in.seen} == {f"Bearer {KEY}"}
    assert {seen.headers["accept-encoding"] for seen in stand_in.seen} == {"identity"}
    stand_in.seen.clear()
    monkeypatch.setenv("OPENAI_BASE_URL", stand_in.url)
    await engine_on(stand_in.url)
    assert stand_in.seen[0].headers["authorization"] == "Bearer sk-openai"
    shown = f"{engine!r}{engine.link!r}{engine.link.snapshot}{await engine.device_info()}{plain!r}"
    assert KEY not in shown
    held = json.dumps(vars(engine._core._connection), default=repr)
    assert KEY not in held

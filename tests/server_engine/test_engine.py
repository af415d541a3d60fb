"""The whole interface on a real server: a served engine of ours, over HTTP."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from mlc_widget import (
    AsyncServerMLCEngine,
    ChatWidget,
    EngineServer,
    EngineStatistics,
    MLCEngine,
    ServerMLCEngine,
    create_kernel_mlc_engine,
    kernel_mlc_engine,
)
from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineTerminatedError,
    LoadCancelledError,
    ModelNotFoundError,
    ModelNotLoadedError,
    UnsupportedFieldError,
    UnsupportedModelError,
)

from ..waiting import until
from .stand_in import MODELS, StandIn, answer, hang

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 8}
SEVEN = {"name": "seven", "schema": {"enum": [7]}}
KEY = "MLC_WIDGET_TEST_SERVER_KEY"


@pytest.fixture(scope="module")
def local() -> Iterator[MLCEngine]:
    with MLCEngine() as engine:
        engine.reload("demo")
        yield engine


@pytest.fixture(scope="module")
def server(local: MLCEngine) -> Iterator[EngineServer]:
    with local.serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, server.token)
        yield server


@pytest.fixture
async def engine(server: EngineServer, engine_on: Any) -> AsyncServerMLCEngine:
    return await engine_on(server.url, api_key_env=KEY)


async def test_answers_are_those_of_the_engine_behind_it(engine, local):
    for fields in (
        {},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"seed": 3, "temperature": 1.0},
        {"top_k": 1, "repetition_penalty": 1.3, "ignore_eos": True},
        {"response_format": {"type": "regex", "regex": "[ab]{3}"}},
        {"response_format": {"type": "json_schema", "json_schema": SEVEN}},
    ):
        asked = {**HELLO, **fields}
        expected = await asyncio.to_thread(local.chat.completions.create, **asked)
        got = await engine.chat.completions.create(**asked)
        assert got.choices == expected.choices
        assert got.usage.completion_tokens == expected.usage.completion_tokens
        stream = await engine.chat.completions.create(**asked, stream=True)
        text = "".join(
            [
                choice.delta.content or ""
                async for chunk in stream
                for choice in chunk.choices
                if choice.index == 0
            ]
        )
        assert text == expected.choices[0].message.content
        assert await engine.get_message() == text


async def test_completions_and_token_ids(engine, local):
    for prompt in ("Once", ["Once", "Twice"], [5, 6, 7]):
        asked = {"prompt": prompt, "temperature": 0, "max_tokens": 5, "logprobs": 1}
        expected = await asyncio.to_thread(local.completions.create, **asked)
        got = await engine.completions.create(**asked)
        assert got.choices == expected.choices
        chunks = [c async for c in await engine.completions.create(**asked, stream=True)]
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == 0) == (
            expected.choices[0].text
        )


async def test_refusals_of_the_server_are_the_same_errors(engine):
    with pytest.raises(UnsupportedModelError):
        await engine.embeddings.create(input="x")
    with pytest.raises(ContextLengthExceededError):
        await engine.completions.create(prompt="word " * 5000)
    with pytest.raises(BadRequestError) as raised:
        await engine.chat.completions.create(**HELLO, logit_bias={"100000000": 1})
    assert raised.value.param.startswith("logit_bias")


async def test_what_the_engine_says_of_itself(engine, server):
    info = await engine.device_info()
    assert (info["runtime"], info["url"], info["server"]) == ("server", server.url, "mlc_widget")
    assert info["device"] is None
    assert engine.link.snapshot.device.startswith("server 127.0.0.1:")
    (model,) = await engine.models.list()
    assert (model.id, model.owned_by) == ("demo", "server")
    await engine.chat.completions.create(**HELLO)
    assert (await engine.metrics())["finished_requests"] == 1
    assert await engine.statistics() == EngineStatistics(0, open_streams=0)
    assert (await engine.logs())[-1].message == "The engine's state: ready."
    assert "seen from here" in await engine.runtime_stats_text()
    await engine.reset_chat()
    assert await engine.get_message() == ""
    assert "demo on 127.0.0.1:" in repr(engine)


async def test_what_no_server_does_is_refused_by_name(engine):
    for work, param in (
        (engine.forward_tokens_and_sample([1]), "forward_tokens_and_sample"),
        (engine.set_log_level("DEBUG"), "log_level"),
        (engine.set_app_config({"model_list": []}), "app_config"),
        (engine.reload("demo", {"temperature": 1.0}), "chat_opts"),
        (
            engine.map("{x}", [{"x": 1}], schema=Literal["a", "b"], probabilities=True),
            "probabilities",
        ),
        (
            engine.chat.completions.create(**HELLO, resumable={"enabled": True}),
            "resumable",
        ),
        (engine.list_resumable_sessions(), "resumable"),
        (engine.resume_chat_completion("one"), "resumable"),
        (engine.resume_chat_completion("one", continue_generation=True), "resumable"),
        (engine.delete_resumable_session("one"), "resumable"),
    ):
        with pytest.raises(UnsupportedFieldError) as raised:
            await work
        assert raised.value.param == param


async def test_unload_and_reload_and_a_wrong_model(engine):
    with pytest.raises(ModelNotLoadedError, match="demo"):
        await engine.chat.completions.create(**HELLO, model="other")
    await engine.unload()
    assert engine.state == "idle"
    with pytest.raises(ModelNotLoadedError):
        await engine.chat.completions.create(**HELLO)
    with pytest.raises(ModelNotFoundError):
        await engine.reload("other")
    with pytest.raises(ModelNotLoadedError, match=r"call reload.*no model 'other'"):
        await engine.chat.completions.create(**HELLO)
    chat = ChatWidget(engine)
    with pytest.raises(ModelNotFoundError, match="no model 'other'"):
        await chat.send("Hello!")
    chat.close()
    await engine.unload()
    with pytest.raises(ModelNotLoadedError, match=r"first\.$"):
        await engine.chat.completions.create(**HELLO)
    await engine.reload("demo")
    assert (await engine.chat.completions.create(**HELLO)).choices


async def test_a_map(engine, local):
    rows = [{"x": "Hello"}, {"x": "Bye"}]
    asked = {"max_tokens": 4, "temperature": 0, "cache": False}
    expected = await asyncio.to_thread(local.map, "{x}", rows, **asked)
    assert await engine.map("{x}", rows, **asked) == expected


async def test_a_chat(engine):
    chat = ChatWidget(engine, temperature=0, max_tokens=8)
    message = await chat.send("Hello!")
    expected = await engine.chat.completions.create(**HELLO)
    assert message["content"] == expected.choices[0].message.content
    chat.close()


async def test_the_openai_client(engine, local):
    client = engine.openai_client()
    answer = await client.chat.completions.create(model="demo", **HELLO)
    expected = await asyncio.to_thread(local.chat.completions.create, **HELLO)
    assert answer.choices[0].message.content == expected.choices[0].message.content


async def test_the_factories(server):
    engine = await create_kernel_mlc_engine(server.url, model="demo", api_key_env=KEY)
    async with engine:
        assert isinstance(engine, AsyncServerMLCEngine)
        assert engine.state == "ready"
    options = {"runtime": "server", "api_key_env": KEY, "show_progress": False}
    with await asyncio.to_thread(kernel_mlc_engine, server.url, **options) as blocking:
        assert isinstance(blocking, ServerMLCEngine)
        answer = await asyncio.to_thread(blocking.chat.completions.create, **HELLO)
        assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("given", "options", "error", "said"),
    [
        ("http://127.0.0.1:1", {"device": "cpu"}, TypeError, "device"),
        ("http://127.0.0.1:1", {"runtime": "tvm"}, BadRequestError, "runtime"),
        ("demo", {"runtime": "server"}, BadRequestError, "address"),
        ("demo", {"model": "demo"}, TypeError, "either"),
        (None, {}, TypeError, "give a model"),
        ("demo", {"api_key_env": "X"}, TypeError, "api_key_env"),
        ("http://u:secret@h", {}, BadRequestError, "api_key_env"),
        ("http://h?x=1", {}, BadRequestError, "path only"),
        ("http://", {}, BadRequestError, "host"),
        ("http://h:99999999", {}, BadRequestError, "valid"),
        ("http://h\n.example", {}, BadRequestError, "ASCII"),
        ("http://h", {"api_key_env": "NO_SUCH_VARIABLE"}, BadRequestError, "not set"),
        ("http://h", {"timeout": 0}, BadRequestError, "timeout"),
        ("http://h", {"extra_fields": "top_k"}, BadRequestError, "list of names"),
    ],
)
async def test_wrong_options(given, options, error, said):
    with pytest.raises(error, match=said) as raised:
        await create_kernel_mlc_engine(given, show_progress=False, **options)
    assert "secret" not in str(raised.value)


async def test_an_address_is_no_model_of_another_engine(local):
    with pytest.raises(BadRequestError, match="address of a server"):
        await asyncio.to_thread(local.reload, "http://127.0.0.1:1/v1")


async def test_a_newer_reload_cancels_an_older_one(stand_in, engine_on):
    engine = await engine_on(stand_in.url)
    stand_in.handlers["/v1/models"] = hang
    first = asyncio.ensure_future(engine.reload("m"))
    await until(lambda: len(stand_in.seen) == 3)
    stand_in.handlers["/v1/models"] = StandIn().handlers["/v1/models"]
    await engine.reload("m")
    with pytest.raises(LoadCancelledError):
        await first
    assert engine.state == "ready"


async def test_a_request_waits_for_the_load_before_it(stand_in, engine_on):
    engine = await engine_on(stand_in.url, load=False)
    gate = asyncio.Event()

    async def slow(seen, send):
        await gate.wait()
        await send(answer(MODELS))

    stand_in.handlers["/v1/models"] = slow

    async def begin() -> None:
        engine.link.begin_reload(["m"])

    await asyncio.wrap_future(engine.link.submit(begin()))
    asking = asyncio.ensure_future(engine.chat.completions.create(**HELLO))
    await until(lambda: len(stand_in.seen) == 1)
    assert engine.state == "loading"
    gate.set()
    assert (await asking).choices[0].message.content == "Hi"


async def test_a_dropped_engine_ends(stand_in):
    engine = AsyncServerMLCEngine(stand_in.url)
    link = engine.link
    del engine
    gc.collect()
    await until(lambda: link.snapshot.state == "terminated")
    with pytest.raises(EngineTerminatedError, match="variable"):
        await asyncio.wrap_future(link.submit(link.reload(["m"])))


async def test_it_is_neither_copied_nor_pickled(engine):
    with pytest.raises(TypeError):
        pickle.dumps(engine)

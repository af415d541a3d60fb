"""Every engine keeps, reports and changes its state in the same way."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

import mlc_widget
from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.blocking_interface import MLCEngineInterface
from mlc_widget.api.errors import (
    BadRequestError,
    ModelNotFoundError,
    ModelNotLoadedError,
    UnsupportedFieldError,
)

SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


def test_it_has_the_whole_interface(loaded_driver: Any) -> None:
    wanted = AsyncMLCEngineInterface if loaded_driver.awaited else MLCEngineInterface
    assert isinstance(loaded_driver.engine, wanted)
    assert getattr(mlc_widget, type(loaded_driver.engine).__name__) is type(loaded_driver.engine)


async def test_the_last_message(driver: Any) -> None:
    answer = await driver.text(**SHORT)
    assert await driver.call("get_message") == answer
    assert await driver.call("get_message", driver.model) == answer


async def test_reset_forgets_message_and_statistics(driver: Any) -> None:
    await driver.chat(**SHORT)
    await driver.call("reset_chat")
    assert await driver.call("get_message") == ""
    assert "decoding: 0.0000" in await driver.call("runtime_stats_text")


async def test_reset_may_keep_the_statistics(driver: Any) -> None:
    await driver.chat(**SHORT)
    await driver.call("reset_chat", keep_stats=True)
    assert await driver.call("get_message") == ""
    assert "decoding: 0.0000" not in await driver.call("runtime_stats_text")


async def test_statistics_in_web_llms_words(driver: Any) -> None:
    await driver.chat(**SHORT)
    text = await driver.call("runtime_stats_text")
    assert re.fullmatch(r"prefill: [\d.]+ tokens/sec, decoding: [\d.]+ tokens/sec", text)


async def test_metrics_count(driver: Any) -> None:
    before = await driver.call("metrics")
    answer = await driver.chat(**SHORT, n=2)
    after = await driver.call("metrics")
    assert after["finished_requests"] == before["finished_requests"] + 1
    assert after["completion_tokens_sum"] == before["completion_tokens_sum"] + 24
    prompt = answer.usage.prompt_tokens
    assert after["prompt_tokens_sum"] == before["prompt_tokens_sum"] + prompt
    assert after["running_requests"] == 0


async def test_metrics_have_mlc_llms_names(driver: Any) -> None:
    await driver.chat(**SHORT)
    metrics = await driver.call("metrics")
    for name in (
        "engine_prefill_time_sum",
        "engine_decode_time_sum",
        "engine_jump_forward_time_sum",
        "prefill_tokens_sum",
        "decode_tokens_sum",
        "jump_forward_tokens_sum",
        "draft_tokens_sum",
        "accepted_draft_tokens_sum",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
    ):
        assert metrics[name] >= 0
    last = metrics["last_finished_request"]
    assert (last["completion_tokens"], last["decode_tokens"]) == (12, 11)
    assert last["ttft_s"] > 0


async def test_metrics_as_prometheus_text(driver: Any) -> None:
    text = (await driver.call("metrics")).prometheus_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_]+ [-+\d.e]+", line) for line in lines)
    assert any(line.startswith("completion_tokens_sum ") for line in lines)
    assert "# TYPE finished_requests counter" in text


async def test_the_loaded_models(driver: Any) -> None:
    (model,) = await driver.call("models.list")
    assert (model.id, model.object) == (driver.model, "model")
    assert model.context_window_size > 0


async def test_the_device(driver: Any) -> None:
    info = await driver.call("device_info")
    assert info["device"]
    assert info["runtime"] == (await driver.call("models.list"))[0].owned_by
    assert info["mlc_widget"] == mlc_widget.__version__
    if info["model_memory_bytes"] is not None:
        assert 0 < info["model_memory_bytes"] < info["device_memory_bytes"]
        assert 0 < info["device_memory_free_bytes"] < info["device_memory_bytes"]


async def test_forwarding_tokens(driver: Any) -> None:
    await driver.call("reload", driver.model, {"temperature": 0.0})
    try:
        first = await driver.call("forward_tokens_and_sample", [40, 41, 42], True)
    except UnsupportedFieldError:
        pytest.skip("this runtime does not report its tokens")
    second = await driver.call("forward_tokens_and_sample", [first])
    await driver.call("reset_chat")
    at_once = await driver.call("forward_tokens_and_sample", [40, 41, 42, first], is_prefill=True)
    assert at_once == second


@pytest.mark.parametrize("ids", [[], [10**6], [1.5]])
async def test_forwarding_what_are_no_tokens(driver: Any, ids: list[Any]) -> None:
    with pytest.raises(BadRequestError, match="input_ids"):
        await driver.call("forward_tokens_and_sample", ids)


@pytest.mark.parametrize("level", ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "SILENT", "warn"])
async def test_log_levels(driver: Any, level: str) -> None:
    try:
        assert await driver.call("set_log_level", level) is None
    finally:
        await driver.call("set_log_level", "WARN")


async def test_an_unknown_log_level(driver: Any) -> None:
    with pytest.raises(BadRequestError, match="log_level = 'LOUD'"):
        await driver.call("set_log_level", "LOUD")


async def test_an_app_config_names_models(driver: Any) -> None:
    record = {"model_id": "by name", "model": driver.model}
    config = {"model_list": [{**record, "overrides": {"context_window_size": 100}}]}
    await driver.call("set_app_config", config)
    try:
        await driver.call("reload", "by name")
        (model,) = await driver.call("models.list")
        assert (model.id, model.context_window_size) == ("by name", 100)
        assert (await driver.chat(**SHORT)).model == "by name"
    finally:
        await driver.call("set_app_config", None)


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ([], "app_config"),
        ({}, "app_config.model_list"),
        ({"model_list": [{"model_id": "x"}]}, "app_config.model_list[0].model"),
        (
            {"model_list": [{"model_id": "x", "model": "y"}] * 2},
            "app_config.model_list[1].model_id",
        ),
        ({"model_list": [], "modle_list": []}, "app_config.modle_list"),
    ],
)
async def test_a_bad_app_config(driver: Any, config: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        await driver.call("set_app_config", config)
    assert caught.value.param == param


async def test_progress_is_reported(driver: Any, pytestconfig: Any) -> None:
    reports: list[Any] = []

    def on_progress(report: Any) -> None:
        reports.append(report)

    driver.engine.set_init_progress_callback(on_progress)
    try:
        assert driver.engine.get_init_progress_callback() is on_progress
        await driver.call("reload", driver.model)
        progress = [report.progress for report in reports]
        assert progress[0] < 1
        assert progress[-1] == 1
        assert progress == sorted(progress)
        assert all(report.text and report.model_id == driver.model for report in reports)
        if pytestconfig.getoption("runtime") == "tvm":  # all is on disk: it counts bytes, too
            done = [r.bytes_done for r in reports if r.phase == "load" and r.bytes_total]
            totals = {r.bytes_total for r in reports if r.phase == "load" and r.bytes_total}
            assert done == sorted(done)
            assert {done[-1]} == totals
    finally:
        driver.engine.set_init_progress_callback(None)
    assert driver.engine.get_init_progress_callback() is None


async def test_chat_options(driver: Any) -> None:
    await driver.call("reload", driver.model, {"context_window_size": 64})
    (model,) = await driver.call("models.list")
    assert model.context_window_size == 64
    with pytest.raises(BadRequestError, match="context window"):
        await driver.chat(messages=[{"role": "user", "content": "hello world " * 50}])
    await driver.call("reload", driver.model)
    (model,) = await driver.call("models.list")
    assert model.context_window_size > 64


async def test_an_unknown_chat_option(driver: Any) -> None:
    with pytest.raises(BadRequestError, match=r"chat_opts.nonsense = 1"):
        await driver.call("reload", driver.model, {"nonsense": 1})
    assert [m.id for m in await driver.call("models.list")] == [driver.model]


async def test_a_model_that_is_not_there(driver: Any, tmp_path: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither a folder nor a \.gguf file here"):
        await driver.call("reload", str(tmp_path / "nowhere"))
    assert [m.id for m in await driver.call("models.list")] == [driver.model]
    assert (await driver.chat(**SHORT)).model == driver.model


async def test_unloaded_and_loaded_again(driver: Any) -> None:
    before = await driver.text(**SHORT)
    await driver.call("unload")
    await driver.call("unload")
    assert await driver.call("models.list") == []
    for call in (
        driver.chat(**SHORT),
        driver.complete(**SHORT),
        driver.call("get_message"),
        driver.call("runtime_stats_text"),
        driver.call("reset_chat"),
        driver.call("forward_tokens_and_sample", [1]),
    ):
        with pytest.raises(ModelNotLoadedError):
            await call
    await driver.call("reload", driver.model)
    assert await driver.text(**SHORT) == before


@pytest.mark.parametrize("ids", [[], [""], ["a", "a"]])
async def test_a_malformed_reload(driver: Any, ids: list[str]) -> None:
    with pytest.raises(BadRequestError, match="model_id"):
        await driver.call("reload", ids)
    assert [m.id for m in await driver.call("models.list")] == [driver.model]


async def test_two_models(driver: Any, other_tiny_model: Any, pytestconfig: Any) -> None:
    if pytestconfig.getoption("runtime") == "mlc_llm":
        pytest.skip("mlc_llm holds one model in a process")
    both = [driver.model, str(other_tiny_model)]
    await driver.call("reload", both)
    assert [m.id for m in await driver.call("models.list")] == both
    with pytest.raises(BadRequestError, match="several models are loaded"):
        await driver.chat(**SHORT)
    texts = [await driver.text(**SHORT, model=model) for model in both]
    assert texts[0] != texts[1]
    assert await driver.call("get_message", both[0]) == texts[0]
    assert await driver.call("get_message", both[1]) == texts[1]


async def test_openais_own_client(driver: Any) -> None:
    client = driver.engine.openai_client()
    create = client.chat.completions.create
    request = {"model": driver.model, "messages": [{"role": "user", "content": "Hello!"}]}
    params = {**request, "temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
    if driver.awaited:
        whole = await create(**params)
        chunks = [c async for c in await create(**params, stream=True)]
        with pytest.raises(openai.BadRequestError, match="temperature = 5") as caught:
            await create(**{**params, "temperature": 5})
        with pytest.raises(openai.NotFoundError, match="not loaded"):
            await create(**{**params, "model": "nobody"})
        models = [m.id async for m in client.models.list()]
        completion = await client.completions.create(
            model=driver.model, prompt="hello", max_tokens=2
        )
    else:
        assert isinstance(client, openai.OpenAI)
        whole = create(**params)
        chunks = list(create(**params, stream=True))
        with pytest.raises(openai.BadRequestError, match="temperature = 5") as caught:
            create(**{**params, "temperature": 5})
        with pytest.raises(openai.NotFoundError, match="not loaded"):
            create(**{**params, "model": "nobody"})
        models = [m.id for m in client.models.list()]
        completion = client.completions.create(model=driver.model, prompt="hello", max_tokens=2)
    assert whole.choices[0].message.content == await driver.text(**SHORT)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == whole.choices[0].message.content
    assert caught.value.param == "temperature"
    assert models == [driver.model]
    assert completion.choices[0].finish_reason in ("length", "stop")

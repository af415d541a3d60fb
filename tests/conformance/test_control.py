"""Every engine can be stopped, aborted, interrupted and shared in the same way."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError, EngineTerminatedError

from ..waiting import until

# Most of a second, if nothing ends it; a stream waits for its reader long before.
LONG: dict[str, Any] = {"temperature": 0, "max_tokens": 4000, "ignore_eos": True}
MEDIUM: dict[str, Any] = {**LONG, "max_tokens": 600}
SHORT: dict[str, Any] = {**LONG, "max_tokens": 12}
# Nobody holds a whole request back: this one is long enough to be found running.
WHOLE: dict[str, Any] = {**LONG, "n": 16}


async def comes_to_rest(driver: Any) -> None:
    async def at_rest() -> bool:
        return not await driver.running()

    await until(at_rest)


async def running(driver: Any, count: int) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while await driver.running() != count:
        assert asyncio.get_running_loop().time() < deadline, "they never ran together"
        await asyncio.sleep(0)


async def test_closing_a_stream_stops_the_engine(driver: Any) -> None:
    stream = await driver.stream(**LONG)
    await stream.next()
    await stream.close()
    await stream.close()
    assert await stream.next() is None
    await comes_to_rest(driver)
    tokens = (await driver.call("metrics"))["last_finished_request"]["completion_tokens"]
    assert 0 < tokens < 4000


async def test_leaving_a_loop_early_stops_the_engine(driver: Any) -> None:
    if driver.awaited:
        async for _ in await driver.chat(**LONG, stream=True):
            break
    else:

        def leave() -> None:
            create = driver.engine.chat.completions.create
            for _ in create(messages=[{"role": "user", "content": "Hello!"}], **LONG, stream=True):
                break

        await asyncio.to_thread(leave)
    await comes_to_rest(driver)


async def test_cancelling_who_waits_stops_the_engine(driver: Any) -> None:
    if not driver.awaited:
        pytest.skip("what blocks cannot be cancelled, but interrupted (tests/proxy/test_ctrl_c)")

    async def read() -> None:
        await (await driver.stream(**WHOLE)).all()

    for waiting in (driver.chat(**WHOLE), read()):
        task = asyncio.create_task(waiting)
        await running(driver, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await comes_to_rest(driver)


async def test_dropping_a_stream_stops_the_engine(driver: Any) -> None:
    stream = await driver.stream(**LONG)
    await stream.next()
    del stream
    gc.collect()
    await comes_to_rest(driver)


async def test_a_stream_that_was_never_read_can_be_closed(driver: Any) -> None:
    stream = await driver.stream(**LONG)
    await stream.close()
    await comes_to_rest(driver)


async def test_the_next_request_after_an_abandoned_stream_is_answered(driver: Any) -> None:
    for _ in range(3):
        stream = await driver.stream(**LONG)
        await stream.next()
        await stream.close()
    assert (await driver.chat(**SHORT)).usage.completion_tokens == 12


async def test_an_interrupt_ends_a_stream_with_abort(driver: Any) -> None:
    stream = await driver.stream(**LONG)
    await stream.next()
    await driver.call("interrupt_generate")
    chunks = await stream.all()
    assert chunks[-1].choices[0].finish_reason == "abort"
    assert len(chunks) < 4000


async def test_an_interrupt_ends_every_choice(driver: Any) -> None:
    stream = await driver.stream(**{**LONG, "n": 2})
    await stream.next()
    await driver.call("interrupt_generate")
    chunks = await stream.all()
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
    assert reasons == ["abort", "abort"]


async def test_an_interrupt_ends_a_whole_request_with_what_there_is(driver: Any) -> None:
    task = asyncio.create_task(driver.chat(**WHOLE))
    await running(driver, 1)
    await driver.call("interrupt_generate")
    answer = await task
    assert {c.finish_reason for c in answer.choices} == {"abort"}
    assert answer.usage.completion_tokens < 16 * 4000


async def test_an_interrupt_with_nothing_to_interrupt_leaves_no_trace(driver: Any) -> None:
    await driver.call("interrupt_generate")
    answer = await driver.chat(**SHORT)
    assert answer.choices[0].finish_reason == "length"
    chunks = await (await driver.stream(**SHORT)).all()
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_abort_ends_one_stream_by_its_id(driver: Any) -> None:
    one = await driver.stream(**LONG, request_id="one")
    two = await driver.stream(**SHORT, request_id="two")
    await driver.call("abort", "one")
    assert (await one.all())[-1].choices[0].finish_reason == "abort"
    assert (await two.all())[-1].choices[0].finish_reason == "length"


async def test_abort_ends_a_whole_request_for_who_waits(driver: Any) -> None:
    task = asyncio.create_task(driver.chat(**WHOLE, request_id="whole"))
    await running(driver, 1)
    await driver.call("abort", "whole")
    assert (await task).choices[0].finish_reason == "abort"


async def test_abort_of_an_unknown_id_is_nothing(driver: Any) -> None:
    stream = await driver.stream(**SHORT, request_id="known")
    await driver.call("abort", "no such request")
    assert (await stream.all())[-1].choices[0].finish_reason == "length"
    assert (await driver.chat(**SHORT)).choices[0].finish_reason == "length"


async def test_an_id_in_use_is_refused_and_free_again_after(driver: Any) -> None:
    stream = await driver.stream(**LONG, request_id="same")
    with pytest.raises(BadRequestError, match="a request with this id is running"):
        await driver.chat(**SHORT, request_id="same")
    await stream.close()
    await comes_to_rest(driver)
    assert (await driver.chat(**SHORT, request_id="same")).id == "same"


async def test_two_streams_advance_together(driver: Any) -> None:
    first, second = await driver.stream(**LONG), await driver.stream(**LONG)
    texts = ["", ""]
    for _ in range(20):  # neither has ended, and neither waits for the other to be read
        for i, stream in enumerate((second, first)):
            chunk = await stream.next()
            assert chunk.choices[0].finish_reason is None
            texts[i] += chunk.choices[0].delta.content or ""
    if driver.batch_invariant:
        assert texts[0] == texts[1]
    await first.close()
    await second.close()


async def test_streams_read_at_once_do_not_mix(driver: Any) -> None:
    async def read() -> tuple[str, str]:
        chunks = await (await driver.stream(**MEDIUM)).all()
        assert len({c.id for c in chunks}) == 1
        return chunks[0].id, "".join(c.choices[0].delta.content or "" for c in chunks)

    (one, first), (two, second) = await asyncio.gather(read(), read())
    assert one != two
    if driver.batch_invariant:
        assert first == second == await driver.text(**MEDIUM)


async def test_eight_at_once_are_each_answered(driver: Any) -> None:
    prompts = [[{"role": "user", "content": f"hello {i}"}] for i in range(8)]
    answers = await asyncio.gather(*(driver.chat(**SHORT, messages=p) for p in prompts))
    assert [a.usage.completion_tokens for a in answers] == [12] * 8
    if driver.batch_invariant:
        alone = [await driver.text(**SHORT, messages=p) for p in prompts]
        assert [a.choices[0].message.content for a in answers] == alone


async def test_a_slow_reader_gets_every_chunk(driver: Any) -> None:
    stream = await driver.stream(**MEDIUM)
    first = await stream.next()
    for _ in range(5):  # others are served meanwhile
        assert (await driver.chat(**SHORT)).choices[0].finish_reason == "length"
    chunks = [first, *await stream.all()]
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == await driver.text(**MEDIUM)


async def test_unload_ends_what_runs_with_abort(driver: Any) -> None:
    stream = await driver.stream(**LONG)
    await stream.next()
    await driver.call("unload")
    assert (await stream.all())[-1].choices[0].finish_reason == "abort"


async def test_terminate_fails_what_waits_and_every_later_call(driver: Any, fresh: Any) -> None:
    other = await fresh()
    await other.ready()
    stream = await other.stream(**LONG)
    await stream.next()
    await other.call("terminate")
    await other.call("terminate")
    with pytest.raises(EngineTerminatedError):
        await stream.all()
    for call in (
        other.chat(**SHORT),
        other.complete(**SHORT),
        other.call("reload", driver.model),
        other.call("unload"),
        other.call("interrupt_generate"),
        other.call("abort", "x"),
        other.call("metrics"),
        other.call("get_message"),
        other.call("models.list"),
        other.call("set_log_level", "INFO"),
        other.call("set_app_config", None),
    ):
        with pytest.raises(EngineTerminatedError):
            await call


async def test_leaving_the_block_terminates(driver: Any, fresh: Any) -> None:
    other = await fresh()
    if other.awaited:
        async with other.engine as engine:
            assert engine is other.engine
    else:

        def block() -> None:
            with other.engine as engine:
                assert engine is other.engine

        await asyncio.to_thread(block)
    with pytest.raises(EngineTerminatedError):
        await other.call("metrics")

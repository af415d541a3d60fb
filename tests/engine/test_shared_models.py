"""Engines that share models, one for each client of a shared worker, on the scripted runtime."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    EngineTerminatedError,
    InsufficientMemoryError,
    LoadCancelledError,
    ModelFormatError,
    ModelNotLoadedError,
    RuntimeUnavailableError,
)
from mlc_widget.api.load_request import LoadTarget, RequiredModels
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.runtimes.scripted import ScriptedRuntime
from mlc_widget.engine.shared_models import SharedModels

from ..waiting import until, until_running

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
Clients = Callable[..., list[DirectCore]]


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """Makes clients of new shared models, given how many and the script."""
    made: list[DirectCore] = []

    def make(count: int = 2, **script: Any) -> list[DirectCore]:
        shared = SharedModels("scripted", script)
        new = [DirectCore(runtime="scripted", shared=shared) for _ in range(count)]
        for core in new:
            core.shared = shared  # type: ignore[attr-defined]
        made.extend(new)
        return new

    ScriptedRuntime.taken = 0
    async with asyncio.timeout(60):
        yield make
        for core in made:
            await core.terminate()
            await core.shared.unload_idle(0)  # type: ignore[attr-defined]


def states(core: Any) -> dict[str, str]:
    return {Path(m["model"]).name: m["state"] for m in core.shared.describe()}


def requires(*models: Path) -> RequiredModels:
    target = LoadTarget.read([str(m) for m in models], None)
    return RequiredModels(target, AppConfig(), resends=True)


async def finish(core: DirectCore, **more: Any) -> str:
    return str((await core.request("chat", {**HELLO, **more}))["choices"][0]["finish_reason"])


async def test_clients_of_one_model_share_it(clients: Clients, tiny_model: Path) -> None:
    cores = clients(3, load_needs=10)
    await asyncio.gather(*(core.reload([str(tiny_model)]) for core in cores))
    assert ScriptedRuntime.taken == 10
    [model] = cores[0].shared.describe()  # type: ignore[attr-defined]
    assert model["clients"] == 3
    assert [await finish(core) for core in cores] == ["stop"] * 3


@pytest.mark.parametrize("call", ["interrupt", "abort", "unload", "reload", "terminate"])
async def test_no_call_of_a_client_ends_what_another_runs(
    clients: Clients, tiny_model: Path, other_tiny_model: Path, call: str
) -> None:
    one, other = clients(text="a b c", hang_after=2)
    for core in (one, other):
        await core.reload([str(tiny_model)])
    both = [asyncio.create_task(finish(core, request_id="same")) for core in (one, other)]
    await asyncio.gather(until_running(one), until_running(other))
    calls: dict[str, Callable[[], Any]] = {
        "interrupt": one.interrupt_generate,
        "abort": lambda: one.abort("same"),
        "unload": one.unload,
        "reload": lambda: one.reload([str(other_tiny_model)]),
        "terminate": one.terminate,
    }
    await calls[call]()
    if call == "terminate":
        with pytest.raises(EngineTerminatedError):
            await both[0]
    else:
        assert await both[0] == "abort"
    await asyncio.sleep(0)
    assert not both[1].done()
    await other.abort("same")
    assert await both[1] == "abort"
    assert [m["id"] for m in await other.list_models()] == [str(tiny_model)]


async def test_conversations_and_statistics_are_each_client_s_own(
    clients: Clients, tiny_model: Path
) -> None:
    one, other = clients(text="secret")
    for core in (one, other):
        await core.reload([str(tiny_model)])
    await finish(one)
    assert await one.get_message() == "secret"
    assert await other.get_message() == ""
    assert (await other.metrics())["finished_requests"] == 0
    await finish(other)
    await other.reset_chat()
    assert await one.get_message() == "secret"
    assert "prefill: 0.0000" in await other.runtime_stats_text()


async def test_a_load_goes_on_while_anyone_waits_for_it(
    clients: Clients, tiny_model: Path, tmp_path: Path
) -> None:
    one, other = clients(load_waits_for=str(tmp_path / "gate"))
    loads = [asyncio.create_task(core.reload([str(tiny_model)])) for core in (one, other)]
    await until(lambda: states(one) == {"tiny": "loading"})
    await one.cancel_load()
    with pytest.raises(LoadCancelledError):
        await loads[0]
    assert states(one) == {"tiny": "loading"}
    await other.cancel_load()
    with pytest.raises(LoadCancelledError):
        await loads[1]
    await until(lambda: states(one) == {})
    (tmp_path / "gate").touch()
    await one.reload([str(tiny_model)])
    assert await finish(one) == "stop"


async def test_a_load_goes_on_for_the_client_s_other_requests(
    clients: Clients, tiny_model: Path, tmp_path: Path
) -> None:
    """One that was unloaded, of which one request that waits for it is stopped."""
    gate = tmp_path / "gate"
    gate.touch()
    [one] = clients(1, load_waits_for=str(gate))
    await one.reload([str(tiny_model)])
    await one.shared.unload_idle(0)  # type: ignore[attr-defined]
    gate.unlink()
    heard: list[InitProgressReport] = []
    one.set_init_progress_callback(heard.append)
    first, second = (asyncio.create_task(finish(one)) for _ in range(2))
    await until(lambda: states(one) == {"tiny": "loading"})
    await until(lambda: len(next(iter(one.shared._sets)).waiting) == 2)  # type: ignore[attr-defined]
    first.cancel()
    await asyncio.wait({first})
    assert states(one) == {"tiny": "loading"}
    gate.touch()
    assert await second == "stop"
    assert [r.progress for r in heard] == sorted(r.progress for r in heard)
    assert heard[-1].progress == 1


async def test_progress_goes_to_those_that_wait(
    clients: Clients, tiny_model: Path, other_tiny_model: Path
) -> None:
    cores = clients(3)
    heard: list[list[InitProgressReport]] = [[], [], []]
    for core, reports in zip(cores, heard, strict=True):
        core.set_init_progress_callback(reports.append)
    await cores[2].reload([str(other_tiny_model)])
    before = len(heard[2])
    await asyncio.gather(*(core.reload([str(tiny_model)]) for core in cores[:2]))
    assert heard[0]
    assert heard[0] == heard[1]
    assert len(heard[2]) == before


async def test_a_failed_load_is_nobody_else_s(
    clients: Clients, tiny_model: Path, other_tiny_model: Path
) -> None:
    one, other = clients(load_fails="broken", load_troubles="other")
    await one.reload([str(tiny_model)])
    await other.reload([str(tiny_model)])
    with pytest.raises(ModelFormatError, match="broken"):
        await one.reload([str(other_tiny_model)])
    assert [await finish(core) for core in (one, other)] == ["stop", "stop"]


async def test_unused_models_are_unloaded_and_loaded_again_on_demand(
    clients: Clients, tiny_model: Path
) -> None:
    one, other = clients(text="words", load_needs=10)
    for core in (one, other):
        await core.reload([str(tiny_model)])
    await finish(one)
    await one.shared.unload_idle(math.inf)  # type: ignore[attr-defined]
    assert states(one) == {"tiny": "ready"}
    await one.shared.unload_idle(0)  # type: ignore[attr-defined]
    assert states(one) == {"tiny": "unloaded"}
    assert await one.get_message() == "words"
    assert [m["id"] for m in await one.list_models()] == [str(tiny_model)]
    assert (await one.device_info())["runtime"] == "scripted"
    heard: list[InitProgressReport] = []
    other.set_init_progress_callback(heard.append)
    assert (await other.request("chat", HELLO, requires(tiny_model)))["choices"]
    assert heard[-1].progress == 1
    assert states(one) == {"tiny": "ready"}
    assert await finish(one) == "stop"  # also without naming the models


async def test_models_with_requests_are_not_unloaded(clients: Clients, tiny_model: Path) -> None:
    [one] = clients(1, text="a b c", hang_after=1)
    await one.reload([str(tiny_model)])
    running = asyncio.create_task(finish(one))
    await until_running(one)
    await one.shared.unload_idle(0)  # type: ignore[attr-defined]
    assert states(one) == {"tiny": "ready"}
    await one.interrupt_generate()
    assert await running == "abort"


async def test_idle_models_give_way_where_memory_is_short(
    clients: Clients, tiny_model: Path, other_tiny_model: Path
) -> None:
    one, other = clients(load_needs=10, load_memory=15, text="a b c", hang_after=2)
    await one.reload([str(tiny_model)])
    await other.reload([str(other_tiny_model)])
    assert states(one) == {"tiny": "unloaded", "other": "ready"}
    running = asyncio.create_task(finish(other))
    await until_running(other)
    short = {**HELLO, "max_tokens": 1}
    with pytest.raises(InsufficientMemoryError):
        await one.request("chat", short, requires(tiny_model))
    await other.interrupt_generate()
    assert await running == "abort"
    assert (await one.request("chat", short, requires(tiny_model)))["choices"]


async def test_what_nobody_uses_any_more_stays_until_it_is_idle(
    clients: Clients, tiny_model: Path
) -> None:
    one, other = clients()
    await one.reload([str(tiny_model)])
    await one.unload()
    with pytest.raises(ModelNotLoadedError, match="call reload"):
        await finish(one)
    assert states(one) == {"tiny": "ready"}
    await other.reload([str(tiny_model)])
    await other.terminate()
    await one.shared.unload_idle(0)  # type: ignore[attr-defined]
    assert states(one) == {}


async def test_one_model_per_process_is_an_error_and_no_new_process(
    clients: Clients, tiny_model: Path, other_tiny_model: Path
) -> None:
    one, other = clients(single_use=True)
    await one.reload([str(tiny_model)])
    await other.reload([str(tiny_model)])
    with pytest.raises(
        RuntimeUnavailableError, match=r"only one model per process, which is .*tiny"
    ):
        await other.reload([str(other_tiny_model)])
    await one.shared.unload_idle(0)  # type: ignore[attr-defined]
    assert [await finish(core) for core in (one, other)] == ["stop", "stop"]

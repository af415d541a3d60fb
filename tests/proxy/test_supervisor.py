"""The supervisor alone, with workers whose life the test controls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import weakref
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import EngineDeadError, EngineTerminatedError, WorkerStartError
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.proxy import supervisor as supervisor_module
from mlc_widget.proxy.supervisor import WorkerSupervisor

from ..waiting import until


class Process:
    pid = 4711

    def tell_end(self) -> concurrent.futures.Future[None] | None:
        return None

    def kill(self) -> None:
        pass

    def was_ending(self, error: Exception) -> bool:
        return False


class Connection:
    bytes_sent = bytes_received = 0

    def __init__(self) -> None:
        self.failed: list[tuple[BaseException, bool]] = []

    def fail(self, error: BaseException, replaced: bool = False) -> None:
        self.failed.append((error, replaced))


class FakeWorker:
    """Comes up when it may, dies when `death` is set, and has stopped when it may have."""

    hello: ClassVar = {"device": "cpu"}
    all: ClassVar[list[FakeWorker]] = []
    may_start: asyncio.Event
    start_error: BaseException | None = None
    may_stop: asyncio.Event

    def __init__(self) -> None:
        self.connection = Connection()
        self.death: asyncio.Future[EngineDeadError] = asyncio.get_running_loop().create_future()
        self.stopped = self.restarted = False

    @classmethod
    async def start(cls, *_: Any) -> FakeWorker:
        worker = cls()
        cls.all.append(worker)
        await cls.may_start.wait()
        if cls.start_error is not None:
            raise cls.start_error
        return worker

    async def died(self) -> EngineDeadError:
        return await asyncio.shield(self.death)

    async def call(self, kind: str) -> None:
        assert kind == "unload"

    async def stop(self, *, restart: bool = False) -> None:
        self.restarted = restart
        await self.may_stop.wait()
        self.stopped = True

    def die(self, how: str = "was killed") -> None:
        self.death.set_result(EngineDeadError(how))


class Deaths(list[str]):
    pass


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def publisher() -> SnapshotPublisher:
    return SnapshotPublisher()


@pytest.fixture
async def supervisor(
    monkeypatch: pytest.MonkeyPatch, publisher: SnapshotPublisher, deaths: Deaths
) -> AsyncIterator[WorkerSupervisor]:
    monkeypatch.setattr(supervisor_module, "Worker", FakeWorker)
    FakeWorker.all, FakeWorker.start_error = [], None
    FakeWorker.may_start, FakeWorker.may_stop = asyncio.Event(), asyncio.Event()
    FakeWorker.may_start.set()
    FakeWorker.may_stop.set()
    made = WorkerSupervisor(
        Process,  # type: ignore[arg-type]
        publisher,
        60.0,
        30.0,
        on_start=lambda worker: None,
        on_progress=lambda report: None,
        on_death=lambda error: deaths.append(str(error)),
        log=EngineLog(),
    )
    async with asyncio.timeout(60):
        yield made
        FakeWorker.may_start.set()
        FakeWorker.may_stop.set()
        await made.terminate("the test is over")


async def test_all_who_ask_at_once_get_one_worker(
    supervisor: WorkerSupervisor, publisher: SnapshotPublisher
) -> None:
    assert supervisor.living() is None
    FakeWorker.may_start.clear()
    asking = [asyncio.create_task(supervisor.up()) for _ in range(5)]
    await until(lambda: FakeWorker.all)
    assert publisher.snapshot.state == "starting"
    FakeWorker.may_start.set()
    workers = await asyncio.gather(*asking)
    assert len(FakeWorker.all) == 1
    assert all(worker is workers[0] for worker in workers)
    assert (publisher.snapshot.state, publisher.snapshot.device) == ("idle", "cpu")
    assert supervisor.pid == Process.pid
    assert supervisor.living() is workers[0]


async def test_who_stops_waiting_leaves_the_start_to_the_others(
    supervisor: WorkerSupervisor,
) -> None:
    FakeWorker.may_start.clear()
    first = asyncio.create_task(supervisor.up())
    second = asyncio.create_task(supervisor.up())
    await until(lambda: FakeWorker.all)
    first.cancel()
    await asyncio.wait({first})
    FakeWorker.may_start.set()
    assert await second is FakeWorker.all[0]  # type: ignore[comparison-overlap]


async def test_a_start_that_fails_is_told_and_tried_again(
    supervisor: WorkerSupervisor, publisher: SnapshotPublisher
) -> None:
    FakeWorker.start_error = WorkerStartError("no such interpreter")
    with pytest.raises(WorkerStartError, match="no such interpreter"):
        await supervisor.up()
    assert publisher.snapshot.state == "dead"
    assert publisher.snapshot.error is FakeWorker.start_error
    assert supervisor.pid is None
    FakeWorker.start_error = None
    assert await supervisor.up() is FakeWorker.all[1]  # type: ignore[comparison-overlap]


async def test_another_worker_is_started_if_the_one_to_join_was_just_ending(
    supervisor: WorkerSupervisor, publisher: SnapshotPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def was_ending(_: Process, error: Exception) -> bool:
        FakeWorker.start_error = None  # the next one starts
        return str(error) == "it is about to end"

    monkeypatch.setattr(Process, "was_ending", was_ending)
    FakeWorker.start_error = WorkerStartError("it is about to end")
    assert await supervisor.up() is FakeWorker.all[1]  # type: ignore[comparison-overlap]
    assert publisher.snapshot.state == "idle"


async def die(supervisor: WorkerSupervisor, deaths: Deaths, how: str = "was killed") -> None:
    await supervisor.up()
    before = len(deaths)
    FakeWorker.all[-1].die(how)
    await until(lambda: len(deaths) > before and FakeWorker.all[-1].stopped)


async def test_a_worker_that_keeps_dying_is_given_up_until_somebody_asks(
    supervisor: WorkerSupervisor, deaths: Deaths
) -> None:
    for i in range(3):
        await die(supervisor, deaths, f"death {i}")
        assert supervisor.living() is None
    with pytest.raises(EngineDeadError, match=r"died 3 times in a row.*reload.*death 2"):
        await supervisor.up()
    assert len(FakeWorker.all) == 3
    supervisor.reset_death_count()
    assert await supervisor.up() is FakeWorker.all[3]  # type: ignore[comparison-overlap]
    assert deaths == ["death 0", "death 1", "death 2"]


async def test_deaths_of_one_cause_count_once(supervisor: WorkerSupervisor, deaths: Deaths) -> None:
    for _ in range(2):
        await die(supervisor, deaths)
    supervisor.count_as_one(2)
    await die(supervisor, deaths)
    await supervisor.up()  # the second death, not the third


async def test_a_restart_fails_what_runs_and_waits_for_the_old_one(
    supervisor: WorkerSupervisor, deaths: Deaths
) -> None:
    await supervisor.up()
    [old] = FakeWorker.all
    FakeWorker.may_stop.clear()
    await supervisor.restart()
    [(error, replaced)] = old.connection.failed
    assert isinstance(error, EngineDeadError)
    assert replaced
    starting = asyncio.create_task(supervisor.up())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(FakeWorker.all) == 1, "two at once"
    FakeWorker.may_stop.set()
    assert await starting is FakeWorker.all[1]  # type: ignore[comparison-overlap]
    assert deaths == []
    assert old.restarted


async def test_a_worker_that_is_of_no_more_use_is_replaced(supervisor: WorkerSupervisor) -> None:
    worker = await supervisor.up()
    await supervisor.retire(worker)
    assert FakeWorker.all[0].stopped
    assert await supervisor.up() is not worker
    await supervisor.retire(worker)  # one that has gone already takes nobody along
    assert not FakeWorker.all[1].stopped


@pytest.mark.parametrize("when", ["idle", "starting", "up", "dead"])
async def test_terminating_ends_it_for_good(
    supervisor: WorkerSupervisor, publisher: SnapshotPublisher, deaths: Deaths, when: str
) -> None:
    asking: asyncio.Task[Any] | None = None
    if when == "starting":
        FakeWorker.may_start.clear()
        asking = asyncio.create_task(supervisor.up())
        await until(lambda: FakeWorker.all)
    elif when == "up":
        await supervisor.up()
    elif when == "dead":
        await die(supervisor, deaths)
    await supervisor.terminate("It was terminated.")
    await supervisor.terminate("Another message")
    assert supervisor.terminated
    assert publisher.snapshot.state == "terminated"
    assert when == "starting" or all(worker.stopped for worker in FakeWorker.all)
    if asking is not None:
        with pytest.raises(EngineTerminatedError, match=r"^It was terminated\.$"):
            await asking
    for call in (supervisor.check_alive, supervisor.living):
        with pytest.raises(EngineTerminatedError, match=r"^It was terminated\.$"):
            call()
    with pytest.raises(EngineTerminatedError):
        await supervisor.up()


class FarProcess(Process):
    """Has ended only once all of them were told to."""

    all: ClassVar[list[FarProcess]] = []

    def __init__(self) -> None:
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended_in_time: bool | None = None
        self.told = False
        self.all.append(self)

    def tell_end(self) -> concurrent.futures.Future[None]:
        self.told = True
        if all(process.told for process in self.all):
            for process in self.all:
                process.ended.set_result(None)
        return self.ended

    def kill(self) -> None:
        self.ended_in_time = self.ended.done()


async def test_at_exit_all_workers_of_other_machines_are_told_at_once(
    supervisor: WorkerSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    FarProcess.all = []
    supervisors = [supervisor]
    for _ in range(3):
        other = copy.copy(supervisor)
        other._process = FarProcess()  # type: ignore[assignment]
        supervisors.append(other)
    monkeypatch.setattr(supervisor_module, "_supervisors", weakref.WeakSet(supervisors))
    await asyncio.to_thread(supervisor_module._kill_workers)
    assert [process.ended_in_time for process in FarProcess.all] == [True] * 3
    for ended in supervisors:
        with pytest.raises(EngineTerminatedError, match="program is ending"):
            ended.check_alive()

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mlc_widget.api.progress import InitProgressReport
from mlc_widget.engine import load_monitor
from mlc_widget.engine.load_monitor import LoadMonitor, LoadScale


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(load_monitor, "time", clock)
    return clock


def monitor(reports: list[InitProgressReport], **options: Any) -> LoadMonitor:
    return LoadMonitor("model", reports.append, started=100.0, **options)


async def test_progress_goes_over_all_phases_from_0_to_1_and_never_back(clock: Clock) -> None:
    reports: list[InitProgressReport] = []
    report = monitor(reports)
    for phase in ("resolve", "download", "verify", "compile", "load", "warm up"):
        for fraction in (0.0, 0.5, 1.0):
            clock.now += 1
            report(phase, fraction, phase)  # type: ignore[arg-type]
    clock.now += 1
    report("load", 0.0, "an older phase again")
    await asyncio.sleep(0)
    progress = [r.progress for r in reports]
    assert progress[0] == 0.0
    assert progress[-1] == 1.0
    assert progress == sorted(progress)
    assert len(set(progress)) == 13  # a phase begins where the one before it ends
    assert [r.time_elapsed for r in reports] == [float(i) for i in range(1, 20)]
    assert {r.model_id for r in reports} == {"model"}


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 2.0])
async def test_a_fraction_stays_within_its_phase(clock: Clock, fraction: float) -> None:
    reports: list[InitProgressReport] = []
    monitor(reports)("compile", fraction, "")
    await asyncio.sleep(0)
    assert 0.45 <= reports[0].progress <= 0.75


async def test_one_of_several_models_has_its_share(clock: Clock) -> None:
    reports: list[InitProgressReport] = []
    report = monitor(reports, part=(0.5, 1.0))
    report("resolve", 0.0, "")
    clock.now += 1
    report("warm up", 1.0, "")
    await asyncio.sleep(0)
    assert [r.progress for r in reports] == [0.5, 1.0]


async def test_speed_and_time_left_are_those_of_the_phase(clock: Clock) -> None:
    reports: list[InitProgressReport] = []
    report = monitor(reports)
    clock.now += 5
    report("download", 0.0, "", bytes_done=0, bytes_total=1000)
    clock.now += 2
    report("download", 0.4, "", bytes_done=400, bytes_total=1000)
    clock.now += 1
    report("download", 1.0, "", bytes_done=1200, bytes_total=1000)
    clock.now += 1
    report("load", 0.5, "", bytes_done=7)
    await asyncio.sleep(0)
    assert [(r.bytes_per_s, r.eta_s) for r in reports] == [
        (None, None),  # no time has passed
        (200.0, 3.0),
        (400.0, 0.0),  # more than was expected
        (None, None),  # another phase begins anew
    ]


async def test_reports_in_quick_succession_are_thinned_out(clock: Clock) -> None:
    reports: list[InitProgressReport] = []
    report = monitor(reports)
    for i in range(1000):
        clock.now += 0.001
        report("load", i / 1000, str(i))
    report("load", 1.0, "the end of a phase is always told")
    report("warm up", 0.0, "and so is a new one")
    await asyncio.sleep(0)
    assert 20 <= len(reports) <= 40
    assert [r.text for r in reports[-2:]] == [
        "the end of a phase is always told",
        "and so is a new one",
    ]


async def test_reports_of_any_thread_come_on_the_loop(clock: Clock) -> None:
    threads: list[int] = []
    report = LoadMonitor("model", lambda _: threads.append(threading.get_ident()), started=100.0)
    await asyncio.to_thread(report, "load", 0.5, "")
    await asyncio.sleep(0)
    assert threads == [threading.get_ident()]


async def test_bytes_that_were_there_before_make_no_speed(clock: Clock) -> None:
    reports: list[InitProgressReport] = []
    report = monitor(reports)
    for done in (600, 600, 700):
        clock.now += 1
        report("download", done / 1000, "", bytes_done=done, bytes_total=1000)
    await asyncio.sleep(0)
    assert [r.bytes_per_s for r in reports[1:]] == [0, 50]
    assert reports[-1].eta_s == 6


async def test_the_last_report_of_a_load_has_all_warnings() -> None:
    reports: list[InitProgressReport] = []
    scale = LoadScale(2, reports.append)
    for i, warning in enumerate(("One is a base model.", "")):
        scale.loading(i, str(i))("warm up", 1.0, "ready", warning=warning)
    await asyncio.sleep(0)
    assert [report.warning for report in reports] == ["One is a base model."] * 2

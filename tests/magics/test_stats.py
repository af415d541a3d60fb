"""What `%mlc stats` says of the device and its memory, and what `%mlc logs` prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.engine_log import EngineLogRecord
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.magics.actions import _facts, logs

GPU = {
    "device_name": "NVIDIA H200",
    "device_memory_bytes": 150 << 30,
    "device_memory_free_bytes": 140 << 30,
    "model_memory_bytes": 5 << 30,
}
METRICS = {"prompt_tokens_sum": 1, "completion_tokens_sum": 2, "finished_requests": 1}


QUIET = EngineStatistics(0)


def link(info: dict[str, Any], statistics: EngineStatistics = QUIET) -> Any:
    """An engine on a device that gives `info`."""

    async def give(value: Any) -> Any:
        return value

    return SimpleNamespace(
        snapshot=SimpleNamespace(models=("demo",), device=info["device"]),
        device_info=lambda: give(info),
        metrics=lambda: give(METRICS),
        runtime_stats_text=lambda model: give("slow" if model == "b" else "fast"),
        statistics=lambda: give(statistics),
    )


async def test_a_gpu_is_named_with_its_memory() -> None:
    lines = await _facts(link({"device": "cuda:1", **GPU}), ["demo"])
    assert lines[:2] == [
        "demo on NVIDIA H200 (cuda:1)",
        "GPU memory: 5,120 MiB for the model, 143,360 MiB free of 153,600 MiB",
    ]


@pytest.mark.parametrize("missing", ["device_memory_free_bytes", "model_memory_bytes"])
async def test_what_is_not_known_is_not_said(missing: str) -> None:
    lines = await _facts(link({"device": "cuda:0", **GPU, missing: None}), ["demo"])
    assert lines[:2] == ["demo on NVIDIA H200 (cuda:0)", "fast"]


async def test_each_of_several_models_has_a_speed() -> None:
    lines = await _facts(link({"device": "cpu"}), ["a", "b"])
    assert lines[:3] == ["a, b on cpu", "a: fast", "b: slow"]


async def test_a_cpu_is_just_that() -> None:
    info = {"device": "cpu", **GPU, "device_name": None}
    assert (await _facts(link(info), ["demo"]))[:2] == ["demo on cpu", "fast"]


@pytest.mark.parametrize(
    ("statistics", "said"),
    [
        (EngineStatistics(0), ["now: 0 requests"]),
        (EngineStatistics(1, waiting_requests=1), ["now: 1 request, 1 of them waiting"]),
        (
            EngineStatistics(3, 1, worker_restarts=1, bytes_sent=2**20, bytes_received=5 * 2**21),
            ["now: 3 requests, 1 of them waiting",
             "worker: 1 restart, 1.0 MiB sent, 10.0 MiB received"],
        ),
        (
            EngineStatistics(0, other_clients=2, other_clients_requests=1),
            ["now: 0 requests", "shared with 2 other clients, which have 1 request"],
        ),
    ],
)  # fmt: skip
async def test_what_runs_and_the_worker_s_life_are_told(
    statistics: EngineStatistics, said: list[str]
) -> None:
    lines = await _facts(link({"device": "cpu"}, statistics), ["demo"])
    assert lines[lines.index("tokens so far: 1 in, 2 out, in 1 request") + 1 :] == said


@pytest.mark.parametrize(
    ("count", "first", "lines"),
    [
        (0, "Nothing has been logged yet.", 1),
        (1, "number 0", 1),
        (100, "number 0", 100),
        (101, "1 earlier record: in the list that _engine.logs() returns.", 101),
        (250, "150 earlier records: in the list that _engine.logs() returns.", 101),
    ],
)
def test_the_newest_records_are_printed(
    capsys: pytest.CaptureFixture[str], count: int, first: str, lines: int
) -> None:
    records = [
        EngineLogRecord(1.0, "worker", "INFO", "mlc_widget", f"number {number}", "mine")
        for number in range(count)
    ]
    submitted = SimpleNamespace(result=lambda: records)
    there = SimpleNamespace(logs=lambda: None, submit=lambda _: submitted)
    registry: Any = SimpleNamespace(
        need=lambda to: SimpleNamespace(link=there), name_of=lambda engine: "_engine"
    )
    logs(registry, SimpleNamespace(to=None))  # type: ignore[arg-type]
    printed = capsys.readouterr().out.splitlines()
    assert first in printed[0]
    assert len(printed) == lines
    if count:
        assert printed[-1].endswith(f" worker INFO mlc_widget: number {count - 1} (request mine)")

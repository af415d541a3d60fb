"""Lists the shared workers of this user, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlc_widget._version import __version__
from mlc_widget.api.errors import BadRequestError, MLCEngineError, WorkerStartError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.worker_record import OpenRecord, WorkerRecord, WorkerRecords, check_share
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.worker_link import WorkerLink

_ANSWER_S: Final = 5.0
_PATIENCE_S: Final = 5.0
_KILLED_S: Final = 5.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A shared worker that lives.

    Attributes:
        record: Its record.
        info: What it says about itself; None if it does not answer.
        problem: Why not.
    """

    record: WorkerRecord
    info: JSONDict | None
    problem: str = ""


async def running_workers() -> list[RunningWorker]:
    """All shared workers of this user, by name; records of dead ones are removed."""
    records = WorkerRecords()
    found = []
    for name in records.names():
        with contextlib.suppress(WorkerStartError):  # not a record
            record = records.read(name)
            if record is not None:
                found.append(record)
                continue
            with records.locked(name) as held:
                if held:
                    records.remove_dead(name)
    return list(await asyncio.gather(*map(_asked, found)))


def listing(workers: Sequence[RunningWorker]) -> str:
    """Workers with their models and clients, as a text."""
    return "\n".join(map(_described, workers)) or "No shared worker is running."


def _described(worker: RunningWorker) -> str:
    record, info = worker.record, worker.info
    head = f"{record.name}: process {record.pid}, mlc_widget {record.version}, "
    head += f"started {_duration(time.time() - record.started)} ago"
    if info is None:
        return f"{head}; {worker.problem}"
    if (memory := info["memory_bytes"]) is not None:
        head += f", {memory / 2**20:,.0f} MiB"
    if not info["clients"]:
        left = record.idle_timeout - info["idle_s"]
        head += f"; no clients for {_duration(info['idle_s'])}"
        head += "" if math.isinf(left) else f", ends in {_duration(left)}"
    lines = [head]
    for model in info["models"]:
        idle = f", unused for {_duration(model['idle_s'])}" if model["idle_s"] else ""
        lines.append(
            f"  model {model['model']}: {model['state']}, "
            f"{_counted(model['clients'], 'client')}{idle}"
        )
    for client in info["clients"]:
        idle = f"idle for {_duration(client['idle_s'])}"
        does = _counted(client["requests"], "request") if client["requests"] else idle
        lines.append(
            f"  client process {client['pid']}: joined {_duration(client['age_s'])} ago, {does}"
        )
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


async def _asked(record: WorkerRecord) -> RunningWorker:
    if record.version != __version__:
        problem = f"it has mlc_widget {record.version}, and this is {__version__}"
        return RunningWorker(record, None, problem)
    link = WorkerLink(record.connection)
    connection = WorkerConnection(*link.sockets(), lambda report: None)
    try:
        async with asyncio.timeout(_ANSWER_S):
            await connection.open(_ANSWER_S, {"client": {"observer": True}})
            return RunningWorker(record, await connection.call("workerInfo"))
    except (MLCEngineError, TimeoutError) as error:
        return RunningWorker(record, None, f"it does not answer {error}".rstrip())
    finally:
        await connection.close()
        await link.close()


def stop_worker(name: str) -> WorkerRecord:
    """End a shared worker, and wait until it has ended.

    Its running requests end with an error; a client that asks again starts another worker.

    Raises:
        BadRequestError: there is no worker of this name.
        WorkerStartError: it cannot be ended.
    """
    records = WorkerRecords()
    found = records.find(check_share(name))
    if found is None:
        running = [other for other in records.names() if records.read(other) is not None]
        there = f"there are {', '.join(running)}" if running else "there is none"
        raise BadRequestError(f"{name!r}: no shared worker of this name is running; {there}.")
    try:
        end(found)
    finally:
        found.close()
    return found.record


def end(found: OpenRecord, *, patience: float = _PATIENCE_S) -> None:
    """End a shared worker: ask it to, and kill it if it has not ended after `patience` seconds.

    Raises:
        WorkerStartError: it cannot be ended.
    """
    record = found.record
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILLED_S)):
        if not found.alive:  # its id may be another process's by now
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        deadline = time.monotonic() + seconds
        while found.alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if found.alive:
        raise WorkerStartError(f"Process {record.pid}, the worker {record.name!r}, does not end.")
    records = WorkerRecords()
    with records.locked(record.name) as held:
        if held:
            records.remove_dead(record.name)

"""A shared worker that cannot be started leaves nothing, and hides its output from others."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mlc_widget.api.errors import WorkerStartError
from mlc_widget.protocol.worker_record import DIRECTORY_VARIABLE, NewRecord, WorkerRecords
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy import shared_process
from mlc_widget.proxy.shared_process import Share, SharedWorkerProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared workers there")

_SLEEPER = "#!/bin/sh\necho a secret\nexec sleep 1000\n"


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private directories are made."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "records"))

    def make() -> Path:
        return Path(tempfile.mkdtemp(prefix="mlc_widget-", dir=folder))

    monkeypatch.setattr(shared_process, "private_directory", make)
    return folder


def process(python: Path, *, hides_output: bool = False) -> SharedWorkerProcess:
    share = Share("launched", hides_output=hides_output)
    return SharedWorkerProcess(share, WorkerSettings(), python=str(python))


def script(folder: Path, text: str) -> Path:
    made = folder / "python"
    made.write_text(text)
    made.chmod(0o700)
    return made


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def _no_shell(*_: object, **__: object) -> None:
    raise subprocess.CalledProcessError(1, "sh")


_FAILURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "connection file": lambda patch: patch.setattr(
        shared_process, "write_connection_file", _no_space
    ),
    "record": lambda patch: patch.setattr(WorkerRecords, "new", _no_space),
    "settings": lambda patch: patch.setattr(shared_process, "worker_environment", _no_space),
    "shell": lambda patch: patch.setattr(shared_process.subprocess, "run", _no_shell),
    "publishing": lambda patch: patch.setattr(NewRecord, "publish", _no_space),
}


@pytest.mark.parametrize("what", _FAILURES)
async def test_a_launch_that_fails_leaves_nothing(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    launched = process(script(tmp_path, _SLEEPER))
    _FAILURES[what](monkeypatch)
    with pytest.raises(WorkerStartError, match="could not be started"):
        await launched.start()
    await launched.stop()
    assert list(private.iterdir()) == []
    assert not WorkerRecords().names()
    running = [one for one in psutil.process_iter() if str(tmp_path) in _records_of(one)]
    psutil.wait_procs(running, timeout=10)
    assert not any(one.is_running() for one in running)


def _records_of(one: psutil.Process) -> str:
    """Where a process keeps records; empty if it is this one, or cannot be read."""
    try:
        return str(one.environ().get(DIRECTORY_VARIABLE, "")) if one.pid != os.getpid() else ""
    except psutil.Error:
        return ""


@pytest.mark.parametrize("hides_output", [False, True])
async def test_a_worker_that_ends_at_once_leaves_nothing_but_its_output(
    private: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hides_output: bool,
) -> None:
    launched = process(script(tmp_path, "#!/bin/sh\necho a secret\n"), hides_output=hides_output)
    await launched.start()
    await asyncio.wait_for(launched.exited, 60)
    with caplog.at_level(logging.WARNING, logger=shared_process.__name__):
        told = [await launched.describe_death() for _ in range(2)]
    assert all(("a secret" in one) is not hides_output for one in told)
    assert caplog.text.count("a secret") == hides_output
    await launched.stop()
    assert list(private.iterdir()) == []
    assert not WorkerRecords().names()

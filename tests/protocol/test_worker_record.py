"""Records of shared workers: what is trusted, and how a dead worker is told from a living one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError, WorkerStartError
from mlc_widget.protocol.worker_record import (
    DIRECTORY_VARIABLE,
    OpenRecord,
    WorkerRecord,
    WorkerRecords,
    check_seconds,
    check_share,
    is_own_record,
    remove_own,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared workers there")


@pytest.fixture
def records(tmp_path: Path) -> WorkerRecords:
    return WorkerRecords(tmp_path / "records")


def record(name: str = "one", directory: str = "/nowhere", pid: int = 4242) -> WorkerRecord:
    return WorkerRecord(name, pid, "1.0", 0.0, {}, {"key": "k"}, directory, 1.0, 1.0)


class Holder:
    """A process that keeps a record's lock, as its worker does."""

    def __init__(self, records: WorkerRecords, made: WorkerRecord) -> None:
        with records.locked(made.name) as held, records.new(made.name) as new:
            assert held
            self.process = subprocess.Popen(["sleep", "600"], pass_fds=(new.fd,))
            self.opened: OpenRecord = new.publish(made)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.opened.close()


@pytest.fixture
def holder(records: WorkerRecords) -> Any:
    made = Holder(records, record())
    yield made
    made.kill()


def test_a_living_worker_is_found(records: WorkerRecords, holder: Holder) -> None:
    assert records.names() == ["one"]
    assert records.read("one") == record()
    assert holder.opened.alive
    found = records.find("one")
    assert found is not None
    assert found.alive
    found.close()
    for file in records.directory.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    assert records.directory.stat().st_mode & 0o777 == 0o700


def test_a_dead_worker_is_not_found_whatever_has_its_process_id(
    records: WorkerRecords, holder: Holder, tmp_path: Path
) -> None:
    left = tmp_path / "mlc_widget-left"
    left.mkdir()
    second = Holder(records, record("two", str(left), os.getpid()))
    second.kill()
    assert records.read("two") is None
    assert records.names() == ["one", "two"]
    records.remove_dead("two")
    records.remove_dead("one")  # it lives
    assert records.names() == ["one"]
    assert not left.exists()


def test_nothing_but_a_worker_s_directory_is_removed_with_its_record(
    records: WorkerRecords, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "mlc_widget-link"
    link.symlink_to(precious)
    for name, directory in {"a": precious, "b": link, "c": tmp_path / "none"}.items():
        Holder(records, record(name, str(directory))).kill()
        records.remove_dead(name)
    assert precious.is_dir()
    assert link.is_symlink()


def test_an_older_worker_does_not_remove_the_record_of_the_next(
    records: WorkerRecords, holder: Holder
) -> None:
    path = records.path("one")
    with path.open("rb") as newer:
        path.rename(records.directory / "away")
        path.write_text("of another")
        assert not is_own_record(newer.fileno(), path)
        assert remove_own(newer.fileno(), path)
        assert path.exists()
    with path.open("rb") as own, records.locked("one"):
        assert not remove_own(own.fileno(), path)  # somebody is looking for it
    with path.open("rb") as own:
        assert remove_own(own.fileno(), path)
    assert not path.exists()


def test_the_lock_of_a_name_is_held_once(records: WorkerRecords) -> None:
    with records.locked("one") as first, records.locked("one") as second:
        assert first
        assert not second
        with records.locked("two") as third:
            assert third
    with records.locked("one") as again:
        assert again


def test_what_a_starter_that_was_killed_left_is_replaced(records: WorkerRecords) -> None:
    (records.directory / "one.new").write_text("half")
    started = Holder(records, record())
    assert records.read("one") == record()
    started.kill()


def _garbage(path: Path) -> None:
    path.write_bytes(b"\0\xff garbage")


def _wrong_types(path: Path) -> None:
    path.write_text(
        '{"name": "one", "pid": "1", "version": 1, "started": 0, "settings": {}, "connection": {},'
        ' "directory": "/", "idle_timeout": 1, "unload_after": 1}'
    )


def _deep(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.parametrize("write", [_garbage, _wrong_types, _deep])
def test_a_locked_file_that_is_no_record_is_an_error(
    records: WorkerRecords, holder: Holder, write: Callable[[Path], None]
) -> None:
    write(records.path("one"))
    with pytest.raises(WorkerStartError, match=r"one\.json cannot be used for shared workers"):
        records.read("one")


@pytest.mark.parametrize("write", [_garbage, _wrong_types, _deep])
def test_one_that_nobody_holds_is_removed(
    records: WorkerRecords, write: Callable[[Path], None]
) -> None:
    write(records.path("one"))
    assert records.read("one") is None
    records.remove_dead("one")
    assert records.names() == []


def _link(path: Path) -> None:
    target = path.with_suffix(".target")
    target.write_text("{}")
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_link, _pipe, _folder])
def test_only_files_are_read(records: WorkerRecords, make: Callable[[Path], None]) -> None:
    make(records.path("one"))
    with pytest.raises(WorkerStartError, match="cannot be used for shared workers"):
        records.read("one")


def test_the_directory_must_be_the_user_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    WorkerRecords(real)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "file").touch()
    for name, why in {"link": "a link or a file", "file": "exists|a link or a file"}.items():
        with pytest.raises(WorkerStartError, match=why):
            WorkerRecords(tmp_path / name)
    real.chmod(0o750)
    with pytest.raises(WorkerStartError, match="chmod 700"):
        WorkerRecords(real)
    real.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(WorkerStartError, match="another user"):
        WorkerRecords(real)


def test_where_records_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert WorkerRecords().directory == tmp_path / "mlc_widget"
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "mine"))
    assert WorkerRecords().directory == tmp_path / "mine"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "-x", ".x", "é", "a b", "x" * 65, 3]
)
def test_names_are_plain(name: Any) -> None:
    with pytest.raises(BadRequestError, match="share = "):
        check_share(name)


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "10", None])
def test_times_are_positive(value: Any) -> None:
    with pytest.raises(BadRequestError, match="idle_timeout = "):
        check_seconds("idle_timeout", value)

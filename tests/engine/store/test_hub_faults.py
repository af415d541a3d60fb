"""Downloads from a Hub where everything goes wrong: each heals, or gives one clear error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.engine.store import hub_child
from mlc_widget.engine.store.hub_api import Hub
from mlc_widget.engine.store.hub_cache import CachedRepository, HubModel
from mlc_widget.engine.store.retrying import (
    Backoff,
    GaveUp,
    TemporaryError,
    wanted_pause,
)
from mlc_widget.engine.store.transfer import DamagedError, content_digest

from .hub_server import COMMIT, Fault, HubServer

REPO = "someone/Tiny-GGUF"
NAME = "Tiny-Q4_0.gguf"
SIZE = 1_000_003
WANTED = HubModel(REPO, None, NAME)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / NAME).write_bytes(os.urandom(SIZE))
    return folder


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    made = HubServer(files, REPO)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    yield made
    made.close()


class Reports(list[dict[str, Any]]):
    """What the child would tell its parent."""

    @property
    def progress(self) -> list[tuple[int, int]]:
        return [(s["bytes_done"], s["bytes_total"]) for s in self if "bytes_done" in s]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    said = Reports()
    monkeypatch.setattr(hub_child, "send_facts", lambda **facts: said.append(facts))
    return said


class Machine:
    """Downloads to an empty cache, and never really waits."""

    def __init__(self, server: HubServer, root: Path) -> None:
        self.server, self.root = server, root
        self.slept: list[float] = []
        self.blobs = CachedRepository(root, REPO).blobs

    def download(self, wanted: HubModel = WANTED, **more: Any) -> Path:
        hub = Hub(self.server.url, "hf_secret", self.slept.append, hub_child._say_pause)
        return hub_child.Download(hub, wanted, self.root, **more).run()

    def partial(self) -> Path | None:
        return next(self.blobs.glob("*.incomplete"), None)


@pytest.fixture
def machine(server: HubServer, reports: Reports, tmp_path: Path) -> Machine:
    return Machine(server, tmp_path / "cache")


def nothing_whole(machine: Machine) -> bool:
    """Whether no name stands for a file that did not come whole."""
    whole = [p for p in machine.blobs.glob("*") if p.suffix != ".incomplete"]
    return not whole and CachedRepository(machine.root, REPO).find(WANTED) is None


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_at_every_tenth(
    machine: Machine, server: HubServer, files: Path, reports: Reports, reset: bool
) -> None:
    server.faults.extend(Fault(cut_after=SIZE // 10, reset=reset) for _ in range(9))
    path = machine.download()
    assert path.read_bytes() == (files / NAME).read_bytes()
    ranges = [given for _, given in server.contents()]
    assert len(ranges) == 10
    if not reset:  # a reset may take with it what had come
        assert ranges[1:] == [f"bytes={SIZE // 10 * i}-" for i in range(1, 10)]
    assert all(seconds < 1 for seconds in machine.slept), "each gave something"
    done = [done for done, _ in reports.progress]
    assert done == sorted(done)
    assert reports.progress[-1] == (SIZE, SIZE)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_has_a_bad_moment(
    machine: Machine, server: HubServer, files: Path, status: int
) -> None:
    server.faults.extend([Fault(status), Fault(status), Fault(cut_after=1000), Fault(status)])
    server.api_faults.extend([Fault(status), Fault(status)])
    assert machine.download().read_bytes() == (files / NAME).read_bytes()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stays_bad(machine: Machine, server: HubServer, status: int) -> None:
    server.faults.extend(Fault(status) for _ in range(50))
    with pytest.raises(GaveUp, match=rf"{NAME}: 127.*answers {status}.*6 times in a row"):
        machine.download()
    assert 10 < sum(machine.slept) < 40
    assert nothing_whole(machine)
    server.api_faults.extend(Fault(status) for _ in range(50))
    with pytest.raises(hub_child.NotCached, match=f"answers {status}"):
        machine.download()


@pytest.mark.parametrize("where", ["faults", "api_faults"])
def test_a_server_that_asks_for_a_pause(
    machine: Machine, server: HubServer, reports: Reports, where: str
) -> None:
    getattr(server, where).append(Fault(429, {"Retry-After": "17"}))
    machine.download()
    assert 17 <= sum(machine.slept) < 18
    assert [(s["pause_s"], "answers 429" in s["reason"]) for s in reports if "pause_s" in s] == [
        (17.0, True)
    ]
    getattr(server, where).append(Fault(429, {"Retry-After": "4000"}))
    (machine.blobs / machine.download().resolve().name).unlink()
    CachedRepository(machine.root, REPO).snapshot(COMMIT).joinpath(NAME).unlink()
    getattr(server, where).append(Fault(429, {"Retry-After": "4000"}))
    with pytest.raises((GaveUp, hub_child.NotCached), match="asks to wait 4000 s"):
        machine.download()


def test_the_pause_that_is_asked_for() -> None:
    assert wanted_pause({"retry-after": "3"}) == 3
    date = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert wanted_pause(date, lambda: 1445412480 - 30) == 30
    assert wanted_pause(date, lambda: 1445412480 + 30) == 0
    assert wanted_pause({"ratelimit": '"api";r=0;t=55'}) == 55
    assert wanted_pause({"ratelimit": '"api";r=9;t=55'}) is None
    for odd in ("", "soon", "-1", "1e9", "9" * 400, "1.5"):
        assert wanted_pause({"retry-after": odd}) is None
    backoff = Backoff(attempts=9, sleep=lambda _: None)
    with pytest.raises(GaveUp):
        backoff.wait(TemporaryError("x", 1e300))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "RepoNotFound", "RepositoryNotFoundError"),
        (403, "GatedRepo", "GatedRepoError"),
        (404, "RepoNotFound", "RepositoryNotFoundError"),
        (404, "RevisionNotFound", "RevisionNotFoundError"),
        (401, "", ""),
        (403, "", ""),
        (404, "", ""),
        (418, "", ""),
    ],
)
@pytest.mark.parametrize("where", ["faults", "api_faults"])
def test_a_server_that_refuses(
    machine: Machine, server: HubServer, status: int, code: str, kind: str, where: str
) -> None:
    getattr(server, where).append(Fault(status, {"X-Error-Code": code} if code else {}))
    with pytest.raises(OSError, match=str(status)) as caught:
        machine.download()
    if kind:
        assert kind in [cls.__name__ for cls in type(caught.value).__mro__]
    assert machine.slept == []
    assert nothing_whole(machine)


@pytest.mark.parametrize(
    "fault", [Fault(claims=SIZE - 10), Fault(claims=SIZE + 10), Fault(claims=0), Fault(extra=5)]
)
def test_a_wrong_length(machine: Machine, server: HubServer, fault: Fault) -> None:
    server.faults.extend([fault] * 3)
    with pytest.raises(DamagedError, match=f"has {SIZE} bytes according to the list of files, but"):
        machine.download()
    assert nothing_whole(machine)


def test_a_wrong_sum(machine: Machine, server: HubServer) -> None:
    server.faults.append(Fault(flipped=500_000))
    with pytest.raises(DamagedError, match=f"{NAME} has the checksum"):
        machine.download()
    assert nothing_whole(machine)
    assert machine.partial() is None
    assert machine.download().stat().st_size == SIZE


def test_what_an_earlier_try_left_may_be_wrong(
    machine: Machine, server: HubServer, files: Path, reports: Reports
) -> None:
    content = (files / NAME).read_bytes()
    machine.download()
    whole = next(machine.blobs.iterdir())
    for left in (b"?" * 1000, content[: SIZE // 2], content, content + b"more", b"?" * SIZE):
        CachedRepository(machine.root, REPO).snapshot(COMMIT).joinpath(NAME).unlink()
        whole.unlink()
        whole.with_name(f"{whole.name}.incomplete").write_bytes(left)
        assert machine.download().read_bytes() == content
        assert reports.progress[-1] == (SIZE, SIZE)
    assert machine.partial() is None


def test_a_server_that_cannot_continue(machine: Machine, server: HubServer, files: Path) -> None:
    server.faults.extend([Fault(cut_after=300_000), Fault(ignores_range=True, cut_after=200_000)])
    server.faults.append(Fault(416))
    assert machine.download().read_bytes() == (files / NAME).read_bytes()
    assert [given for _, given in server.contents()] == [
        *(None, "bytes=300000-", "bytes=200000-", None)
    ]


def test_redirects_in_a_circle(machine: Machine, server: HubServer) -> None:
    server.contents_at = server.url
    with pytest.raises(DamagedError, match="redirects more than 10 times"):
        machine.download()
    server.api_faults.extend(Fault(302, {"Location": "/again"}) for _ in range(50))
    with pytest.raises(DamagedError, match="redirects in a circle"):
        machine.download()


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x"])
def test_a_redirect_to_what_is_no_web_page(machine: Machine, server: HubServer, to: str) -> None:
    server.faults.append(Fault(302, {"Location": to}))
    with pytest.raises(DamagedError, match="redirects to"):
        machine.download()


def test_the_token_stays_with_the_hub(machine: Machine, server: HubServer, files: Path) -> None:
    other = HubServer(files, REPO)
    try:
        server.contents_at = other.url
        other.faults.append(Fault(403))  # as where a signed link is too old
        machine.download()
        assert set(server.tokens) == {"Bearer hf_secret"}
        assert set(other.tokens) == {None}
    finally:
        other.close()


def test_a_full_disk_is_seen_before(
    machine: Machine, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(hub_child.NoSpace, match="GB are needed"):
        machine.download()
    assert server.contents() == []
    # What came before needs no second place.
    digest = content_digest(server.folder / NAME, "0" * 64)
    machine.blobs.joinpath(f"{digest}.incomplete").write_bytes(
        (server.folder / NAME).read_bytes()[:10]
    )
    assert machine.download().stat().st_size == SIZE


def test_a_disk_that_fills_up(
    machine: Machine, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("mlc_widget.engine.store.transfer.os.fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            machine.download()
    assert caught.value.errno == errno.ENOSPC
    assert nothing_whole(machine)
    assert machine.download().stat().st_size == SIZE


def test_no_server(machine: Machine, server: HubServer, files: Path) -> None:
    server.close()
    with pytest.raises(hub_child.NotCached, match=r"cannot be reached .*internet connection"):
        machine.download()


def test_what_is_here_needs_no_server(
    machine: Machine, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine.download()
    for fault in (Fault(401), Fault(404, {"X-Error-Code": "RepoNotFound"})):
        server.api_faults.append(fault)
        assert machine.download() == path
    server.close()
    assert machine.download() == path
    with pytest.raises(hub_child.NotCached):
        machine.download(HubModel(REPO, None, NAME, "0" * 64))


def test_names_that_lead_elsewhere_are_left_out(machine: Machine, server: HubServer) -> None:
    entry = {"type": "file", "size": 3, "oid": "a" * 40}
    bad = ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "C:/x.gguf", "a\\b.gguf", "./x.gguf",
           "a//b.gguf", "x\n.gguf", "x" * 600 + ".gguf", "..", ""]  # fmt: skip
    server.extra_entries = [{**entry, "path": name} for name in bad]
    server.extra_entries += [
        {**entry, "path": "negative.gguf", "size": -1},
        {**entry, "path": "odd.gguf", "oid": "../../x"},
    ]
    hub = Hub(server.url)
    assert list(hub.files(REPO, COMMIT)) == [NAME]


def child(machine: Machine, server: HubServer) -> subprocess.Popen[str]:
    """A process that downloads."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(machine.root),
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", hub_child.__name__, json.dumps(asdict(WANTED))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def test_killed_and_resumed_by_another_that_waits(
    machine: Machine, server: HubServer, files: Path
) -> None:
    server.hold_after = 600_000
    first = child(machine, server)
    assert server.holding.wait(60)
    second = child(machine, server)
    assert second.stdout is not None
    waiting = next(line for line in second.stdout if '"waiting"' in line)
    assert waiting
    assert len(server.contents()) == 1, "one download, however many ask"
    first.kill()
    assert server.closed.wait(30), "the connection ends with the process"
    *_, last = second.stdout
    first.communicate()
    second.communicate()
    path = Path(json.loads(last.partition(":")[2])["path"])
    assert path.read_bytes() == (files / NAME).read_bytes()
    (first_range, second_range) = [given for _, given in server.contents()]
    assert first_range is None
    assert second_range is not None
    assert 0 < int(second_range[6:-1]) <= 600_000


def test_several_files_come_at_once(machine: Machine, server: HubServer, files: Path) -> None:
    for n in (1, 2, 3):
        (files / f"Big-Q8_0-0000{n}-of-00003.gguf").write_bytes(os.urandom(50_000))
    gate = threading.Barrier(3, timeout=30)
    hub = Hub(server.url)
    stream = hub.transfer._client.stream

    class Client:
        def stream(self, *args: Any, **kwargs: Any) -> Any:
            gate.wait()
            return stream(*args, **kwargs)

    hub.transfer._client = Client()
    wanted = HubModel(REPO, None, "Big-Q8_0-00001-of-00003.gguf")
    path = hub_child.Download(hub, wanted, machine.root).run()
    assert len(list(path.parent.glob("Big*"))) == 3

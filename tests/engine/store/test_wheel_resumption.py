"""What is left of a wheel's download is completed from where pip says it is, or not used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.engine.store import pip_download, wheel_resumption
from mlc_widget.engine.store.wheel_failures import NoSpace

from .local_server import Handler, LocalServer

WHEEL = os.urandom(700_000)
NAME = "tiny_model-1.2-py3-none-any.whl"


class Server(LocalServer):
    """Gives a wheel from any byte on.

    Attributes:
        cuts: After how many bytes each of the next responses is cut off.
        ranges: Whether it gives parts.
        shift: How much later than requested its parts begin.
        status: The status of its responses, in place of the wheel.
        starts: Where each response was requested to begin.
    """

    def __init__(self) -> None:
        self.cuts: list[int] = []
        self.ranges, self.shift = True, 0
        self.status: int | None = None
        self.starts: list[int] = []
        super().__init__(_Wheel)


class _Wheel(Handler):
    local: Server

    def answer(self) -> None:
        server = self.local
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        server.starts.append(start)
        if server.status is not None or start >= len(WHEEL):
            self.send_error(server.status or 416)
            return
        start = start + server.shift if server.ranges else 0
        self.send_response(206 if server.ranges else 200)
        if server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(WHEEL) - 1}/{len(WHEEL)}")
        self.send_header("Content-Length", str(len(WHEEL) - start))
        self.end_headers()
        self.wfile.write(WHEEL[start : start + server.cuts.pop(0) if server.cuts else len(WHEEL)])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    made = Server()
    yield made
    made.close()


def report(url: str, sha256: str) -> dict[str, Any]:
    """What pip reports."""
    archive = {"hashes": {"sha256": sha256}}
    return {"install": [{"download_info": {"url": url, "archive_info": archive}}]}


@pytest.fixture
def resume(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path | None]:
    """Resume after an earlier download has left something."""
    folder, parts = tmp_path / "tiny-model", tmp_path / "tiny-model" / ".2-parts"

    def resumed(content: bytes, name: str = NAME, said: Any = ...) -> Path | None:
        left = folder / ".1-parts" / "0" / "tmp" / "pip-unpack-x"
        left.mkdir(parents=True)
        parts.mkdir()
        (left / name).write_bytes(content)
        wheel_resumption.keep(folder / ".1-parts", folder)
        place = report(f"{server.url}/{NAME}", hashlib.sha256(WHEEL).hexdigest())
        monkeypatch.setattr(pip_download, "report", lambda *_: place if said is ... else said)
        return wheel_resumption.resumed(folder, parts, "tiny-model", "1.2")

    return resumed


Resume = Callable[..., Path | None]


@pytest.mark.parametrize(
    ("left", "starts"),
    [(WHEEL[:400_000], [400_000]), (WHEEL, [700_000]), (WHEEL[:-1], [699_999])],
    ids=["a part", "all of it", "all but a byte"],
)
def test_it_is_completed(resume: Resume, server: Server, left: bytes, starts: list[int]) -> None:
    wheel = resume(left)
    assert wheel is not None
    assert wheel.read_bytes() == WHEEL
    assert wheel.name == NAME
    assert server.starts == starts


def test_a_connection_that_breaks_again(resume: Resume, server: Server) -> None:
    server.cuts = [100_000, 50_000]
    wheel = resume(WHEEL[:400_000])
    assert wheel is not None
    assert wheel.read_bytes() == WHEEL
    assert server.starts == [400_000, 500_000, 550_000]


@pytest.mark.parametrize(
    "left", [bytes(400_000), WHEEL + b"x", bytes(700_000)], ids=["others", "more", "as many"]
)
def test_wrong_bytes_are_not_used_again(resume: Resume, tmp_path: Path, left: bytes) -> None:
    assert resume(left) is None
    kept = list((tmp_path / "tiny-model" / ".partial").iterdir())
    assert all(path.read_bytes() != WHEEL for path in kept)


@pytest.mark.parametrize(
    "trouble",
    [
        ("ranges", False),
        ("status", 401),
        ("status", 404),
        ("status", 500),
        ("shift", 5),
        ("cuts", [0]),
    ],
    ids=repr,
)
def test_a_server_that_does_not_continue(
    resume: Resume, server: Server, trouble: tuple[str, Any]
) -> None:
    setattr(server, *trouble)
    assert resume(WHEEL[:400_000]) is None
    assert server.starts == [400_000]


@pytest.mark.parametrize(
    "name",
    [
        "tiny_model-1.1-py3-none-any.whl",
        "other_model-1.2-py3-none-any.whl",
        "tiny_model-1.2-cp311-cp311-linux_x86_64.whl",
        "x.whl",
    ],
)
def test_another_wheel_is_not_used(resume: Resume, server: Server, name: str) -> None:
    assert resume(WHEEL[:400_000], name) is None
    assert server.starts == []


@pytest.mark.parametrize(
    "said",
    [
        {"install": []},
        {"install": [{}]},
        {"install": 5},
        [],
        "x",
        report(f"file:///{NAME}", "0" * 64),
        report(f"ftp://host/{NAME}", "0" * 64),
        report(5, "0" * 64),  # type: ignore[arg-type]
        report(f"http://host/{NAME}", None),  # type: ignore[arg-type]
    ],
)
def test_a_report_that_names_no_wheel(resume: Resume, server: Server, said: Any) -> None:
    assert resume(WHEEL[:400_000], said=said) is None
    assert server.starts == []


def test_few_bytes_are_not_worth_it(resume: Resume, server: Server, tmp_path: Path) -> None:
    assert resume(WHEEL[:1000]) is None
    assert not (tmp_path / "tiny-model" / ".partial").exists()


def test_a_full_disk(resume: Resume, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(folder: Path, nbytes: int) -> None:
        raise NoSpace("full")

    monkeypatch.setattr(wheel_resumption, "need_space", no_space)
    with pytest.raises(NoSpace):
        resume(WHEEL[:400_000])


def test_the_longer_part_is_kept(tmp_path: Path) -> None:
    for number, nbytes in enumerate((400_000, 300_000, 500_000)):
        parts = tmp_path / f".{number}-parts"
        parts.mkdir()
        (parts / NAME).write_bytes(WHEEL[:nbytes])
        wheel_resumption.keep(parts, tmp_path)
    (kept,) = (tmp_path / ".partial").iterdir()
    assert kept.stat().st_size == 500_000
    wheel_resumption.forget(tmp_path)
    assert not (tmp_path / ".partial").exists()

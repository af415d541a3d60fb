"""``HF://user/repo``: downloaded with progress, resumed, found again, refused with a reason."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import (
    BadRequestError,
    LoadCancelledError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
)
from mlc_widget.engine.store import hub, hub_child
from mlc_widget.models import builtin_models

from ...waiting import until
from .hub_server import COMMIT, HubServer

REPO = "someone/Tiny-q4f32_1-MLC"
DEADLINE = 60.0


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    shutil.copytree(builtin_models()["demo"], folder)
    (folder / "picture.png").write_bytes(b"not of the model")
    return folder


@pytest.fixture
def server(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    made = HubServer(files, REPO)
    for name, value in {
        "HF_ENDPOINT": made.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


class Reports(list[SimpleNamespace]):
    """A load reporter that remembers."""

    def __call__(self, phase: str, fraction: float, text: str, **counts: Any) -> None:
        self.append(SimpleNamespace(phase=phase, fraction=fraction, text=text, **counts))


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if hub_child.__name__ in process.cmdline():
                found.append(process)
        except psutil.Error:
            pass  # it has just ended
    return found


async def test_a_repository_becomes_a_folder(server: HubServer, files: Path) -> None:
    reports = Reports()
    folder = await hub.download(f"HF://{REPO}", reports)
    wanted = {p.name for p in files.iterdir()} - {"picture.png", "README.md"}
    assert {p.name for p in folder.iterdir()} == wanted
    for name in wanted:
        assert (folder / name).read_bytes() == (files / name).read_bytes()
    size = sum((files / name).stat().st_size for name in wanted)
    counted = [r for r in reports if hasattr(r, "bytes_done")]
    assert (counted[-1].bytes_done, counted[-1].bytes_total) == (size, size)
    assert {r.phase for r in reports} == {"download"}
    fractions = [r.fraction for r in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    # It is found again without another byte, and without the Hub.
    server.requests.clear()
    assert await hub.download(f"HF://{REPO}@{COMMIT}", Reports()) == folder
    assert not [r for r in server.requests if "/resolve/" in r[1]]
    server.close()
    assert await hub.download(f"HF://{REPO}", Reports()) == folder


async def test_a_cancelled_download_keeps_what_came(server: HubServer, tmp_path: Path) -> None:
    server.hold_after = 1_000_000
    task = asyncio.create_task(hub.download(f"HF://{REPO}", Reports()))

    def half_downloaded() -> bool:
        return len(list(tmp_path.rglob("snapshots/*/*.json"))) >= 4 and any(
            p.stat().st_size > 700_000 for p in tmp_path.rglob("*.incomplete")
        )

    await until(half_downloaded)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children()
    assert not list(tmp_path.rglob("*.incomplete"))
    server.hold_after = None
    server.requests.clear()
    folder = await hub.download(f"HF://{REPO}", Reports())
    assert (folder / "params_shard_0.bin").stat().st_size > 3_000_000
    got = [path for method, path, _ in server.requests if method == "GET" and "/resolve/" in path]
    assert [p.rpartition("/")[2] for p in got] == ["params_shard_0.bin"]


async def test_a_worker_downloads_loads_and_answers(server: HubServer) -> None:
    async with AsyncKernelMLCEngine(runtime="tvm") as engine:
        seen: list[Any] = []
        engine.set_init_progress_callback(seen.append)
        # A newer reload ends one that downloads.
        server.hold_after = 1000
        first = asyncio.create_task(engine.reload(f"HF://{REPO}"))
        assert await asyncio.to_thread(server.holding.wait, DEADLINE)
        server.hold_after = None
        await engine.reload(f"HF://{REPO}@main")
        with pytest.raises(LoadCancelledError):
            await first
        assert not children()
        phases = list(dict.fromkeys(r.phase for r in seen))
        assert phases.index("download") < phases.index("load")
        made = await engine.chat.completions.create(
            messages=[{"role": "user", "content": "Hello!"}], temperature=0, max_tokens=8
        )
        assert made.choices[0].message.content
        assert made.model == f"HF://{REPO}@main"


@pytest.mark.parametrize(
    "model_id",
    ["HF://", "HF://one", "HF://a/b/c", "HF://a/b@", "HF://../..", "HF://a/ b", "HF://a/b@../x y"],
)
async def test_names_that_are_none(model_id: str) -> None:
    with pytest.raises(BadRequestError, match="HF://user/repo") as caught:
        await hub.download(model_id, Reports())
    assert caught.value.param == "model_id"


async def test_no_such_repository_or_revision(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nobody/nothing.* HF_TOKEN"):
        await hub.download("HF://nobody/nothing", Reports())
    with pytest.raises(ModelNotFoundError, match="no branch, tag or commit 'v7'"):
        await hub.download(f"HF://{REPO}@v7", Reports())


async def test_a_repository_that_asks_for_consent(server: HubServer) -> None:
    server.gated = True
    with pytest.raises(ModelDownloadError, match=rf"terms on .*/{REPO}, then.* HF_TOKEN") as caught:
        await hub.download(f"HF://{REPO}", Reports())
    assert caught.value.code == "gated_model"


async def test_a_repository_in_another_format(server: HubServer, files: Path) -> None:
    (files / "mlc-chat-config.json").rename(files / "config.json")
    with pytest.raises(ModelFormatError, match="not in MLC format"):
        await hub.download(f"HF://{REPO}", Reports())
    assert not [p for m, p, _ in server.requests if m == "GET" and p.endswith(".bin")]


async def test_no_network(server: HubServer) -> None:
    server.close()
    with pytest.raises(ModelDownloadError, match=r"could not be downloaded.*internet connection"):
        await hub.download(f"HF://{REPO}", Reports())

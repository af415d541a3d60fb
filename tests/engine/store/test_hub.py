"""``HF://user/repo``: downloaded with progress, resumed, found again, refused with a reason."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import (
    BadRequestError,
    InsufficientMemoryError,
    LoadCancelledError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
)
from mlc_widget.engine.store import hub, hub_child
from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.store.hub_cache import HubModel
from mlc_widget.engine.store.split_files import choose
from mlc_widget.models import builtin_models

from ...waiting import until
from . import hf_folders
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
        names = [name for name, _ in server.contents() if name.endswith(".json")]
        return len(names) >= 4 and any(
            p.stat().st_size > 700_000 for p in tmp_path.rglob("*.incomplete")
        )

    await until(half_downloaded)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.closed.wait, DEADLINE)
    print(f"The connection was closed after {time.monotonic() - started:.2f} s.")
    assert not children(), "no process is left to keep the connection"
    assert hub.cached(hub.parse(f"HF://{REPO}")) is None
    server.hold_after = None
    server.requests.clear()
    reports = Reports()
    folder = await hub.download(f"HF://{REPO}", reports)
    assert (folder / "params_shard_0.bin").stat().st_size > 3_000_000
    ((name, given),) = [(n, r) for n, r in server.contents() if n.endswith(".bin")]
    assert name == "params_shard_0.bin"
    assert int((given or "")[6:-1]) > 700_000, "it goes on where it ended"
    counted = [r.bytes_done for r in reports if hasattr(r, "bytes_done")]
    assert counted[0] > 700_000


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
    [
        "HF://",
        "HF://one",
        "HF://a/b/c",
        "HF://a/b@",
        "HF://../..",
        "HF://a/ b",
        "HF://a/b@../x y",
        "HF://a/b@a/../../x",
        "HF://a/b:",
        "HF://a/b:Q4/x.gguf",
        "HF://a/b/x.gguf:Q4_0",
        "HF://a/b/../x.gguf",
        "HF://a/b//x.gguf",
        "HF://a/b/x.gguf@",
        "HF://a/b/x[1].gguf",
        "HF://a/b#sha256=" + "0" * 64,
        "HF://a/b/x.gguf#sha256=1",
        "HF://a/b/" + "a" * 2000 + ".gguf",
    ],
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


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.soak), 3])
async def test_a_repository_of_safetensors(
    server: HubServer, files: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(files)
    hf_folders.make(files, shards=shards)
    more = ["pytorch_model.bin", "consolidated.safetensors", "README.md", "chat_template.jinja"]
    for name in more:
        (files / name).write_bytes(b"{{ messages }}")
    path = await hub.download(f"HF://{REPO}", Reports())
    expected = {p.name for p in files.iterdir() if p.is_file()} - set(more[:3])
    assert {p.name for p in path.iterdir()} == expected
    with Conversion(path, "q4f16_1") as conversion:
        assert conversion.name.startswith("Tiny-q4f32_1-MLC-q4f16_1-")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert await hub.download(f"HF://{REPO}", Reports()) == path
    next(path.glob("*.safetensors")).unlink()
    with pytest.raises(ModelDownloadError, match="not in the cache"):
        await hub.download(f"HF://{REPO}", Reports())


@pytest.fixture
def gguf_files(files: Path) -> Path:
    """A repository as people make them: several quantizations, one of them split."""
    for path in files.iterdir():
        path.unlink()
    sizes = {
        "README.md": 10,
        "Tiny-Q2_K.gguf": 1000,
        "Tiny-Q4_0.gguf": 1_400_000,
        "Tiny-Q4_K_M.gguf": 2_400_000,
        "Tiny-Q8_0-00001-of-00002.gguf": 3_000_000,
        "Tiny-Q8_0-00002-of-00002.gguf": 1_000_000,
        "mmproj-Tiny-F16.gguf": 500,
    }
    for name, size in sizes.items():
        (files / name).write_bytes(name.encode().ljust(size, b"."))
    return files


async def test_one_file_of_a_repository(server: HubServer, gguf_files: Path) -> None:
    reports = Reports()
    model_id = f"HF://{REPO}/Tiny-Q4_0.gguf"
    path = await hub.download(model_id, reports)
    assert path.read_bytes() == (gguf_files / "Tiny-Q4_0.gguf").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["Tiny-Q4_0.gguf"]
    counted = [r for r in reports if hasattr(r, "bytes_done")]
    assert (counted[-1].bytes_done, counted[-1].bytes_total) == (1_400_000, 1_400_000)
    assert {r.phase for r in reports} == {"download"}
    server.close()
    assert await hub.download(model_id, Reports()) == path
    with pytest.raises(ModelDownloadError, match=r"Tiny-Q2_K.*cannot be reached"):
        await hub.download(f"HF://{REPO}/Tiny-Q2_K.gguf", Reports())


async def test_the_cache_is_asked_alone(server: HubServer, gguf_files: Path) -> None:
    name = "Tiny-Q8_0-00001-of-00002.gguf"
    sha256 = hashlib.sha256((gguf_files / name).read_bytes()).hexdigest()
    wanted = hub.parse(f"HF://{REPO}/{name}@{COMMIT}#sha256={sha256}")
    assert hub.cached(wanted) is None
    assert server.requests == []
    path = await hub.download(f"HF://{REPO}/{name}@{COMMIT}", Reports())
    server.requests.clear()
    assert hub.cached(wanted) == path
    other = hub.parse(f"HF://{REPO}/{name}@{COMMIT}#sha256={'0' * 64}")
    assert hub.cached(other) is None
    assert hub.cached(wanted) == path
    path.with_name("Tiny-Q8_0-00002-of-00002.gguf").unlink()
    assert hub.cached(wanted) is None
    assert server.requests == []


async def test_all_parts_of_a_split_file(server: HubServer, gguf_files: Path) -> None:
    path = await hub.download(f"HF://{REPO}/Tiny-Q8_0-00001-of-00002.gguf@{COMMIT}", Reports())
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "Tiny-Q8_0-00001-of-00002.gguf",
        "Tiny-Q8_0-00002-of-00002.gguf",
    ]


async def test_a_repository_of_gguf_files_gives_one(server: HubServer, gguf_files: Path) -> None:
    reports = Reports()
    path = await hub.download(f"HF://{REPO}@main", reports)
    assert path.name == "Tiny-Q4_K_M.gguf"
    assert any("Tiny-Q4_K_M.gguf, one of 4 files" in r.text for r in reports)
    path = await hub.download(f"{REPO}:q8_0", Reports())
    assert path.name == "Tiny-Q8_0-00001-of-00002.gguf"
    assert len(list(path.parent.glob("*Q8_0*"))) == 2
    server.close()
    assert hub.cached(hub.parse(f"{REPO}:Q8_0")) == path
    assert hub.cached(hub.parse(f"{REPO}:Q2_K")) is None


async def test_what_a_repository_has_is_said(server: HubServer, gguf_files: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await hub.download(f"HF://{REPO}/Tiny-q8_0.gguf@main", Reports())
    said = str(caught.value)
    assert "Tiny-Q2_K.gguf (0 MB), Tiny-Q4_0.gguf (1 MB), Tiny-Q4_K_M.gguf (2 MB), " in said
    assert "Tiny-Q8_0-00001-of-00002.gguf (4 MB). " in said
    assert f"such as 'HF://{REPO}/Tiny-Q4_0.gguf@main'" in said, "the nearest"
    with pytest.raises(
        ModelNotFoundError, match=rf"no such file in Q6_K.*'HF://{REPO}/Tiny-Q4_K_M"
    ):
        await hub.download(f"HF://{REPO}:Q6_K", Reports())
    (gguf_files / "Other-Q4_0.gguf").write_bytes(b"another model")
    with pytest.raises(ModelFormatError, match=r"several models.*Other-Q4_0.gguf \(0 MB\)"):
        await hub.download(f"HF://{REPO}", Reports())
    (gguf_files / "Tiny-Q8_0-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match="no such file"):
        await hub.download(f"HF://{REPO}/Tiny-Q8_0-00001-of-00002.gguf", Reports())
    assert server.contents() == []


async def test_a_files_sum_is_checked(server: HubServer, gguf_files: Path) -> None:
    model_id = f"HF://{REPO}/Tiny-Q4_0.gguf#sha256="
    right = hashlib.sha256((gguf_files / "Tiny-Q4_0.gguf").read_bytes()).hexdigest()
    with pytest.raises(ModelFormatError, match=f"has the sha256 {right}, but 000"):
        await hub.download(model_id + "0" * 64, Reports())
    assert (await hub.download(model_id + right, Reports())).is_file()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a-q8_0.gguf", "a-q4_0.gguf", "a-q4_k_m.gguf", "a-q4_k_s.gguf"], "a-q4_k_m.gguf"),
        (["a.Q8_0.gguf", "a.Q4_0_4_4.gguf", "a.Q4_0.gguf"], "a.Q4_0.gguf"),
        (["Q8_0/a.gguf", "IQ4_XS/a.gguf"], "IQ4_XS/a.gguf"),
        (["a-UD-Q4_K_M.gguf", "a-Q4_K_M.gguf"], "a-Q4_K_M.gguf"),
        (["a-1.5B-F16.gguf", "a-1.5B.gguf"], "a-1.5B-F16.gguf"),
        (["a-F16.gguf", "b-F16.gguf"], None),
        (["a-Q4_0.gguf", "a-it-Q4_0.gguf"], None),
        ([], None),
    ],
)
def test_which_quantization_is_taken_first(names: list[str], wanted: str | None) -> None:
    assert choose({name: len(names) - i for i, name in enumerate(names)}).name == wanted


def test_what_fits_is_taken() -> None:
    files = {"a-Q2_K.gguf": 2, "a-Q3_K_M.gguf": 3, "a-Q4_K_M.gguf": 4, "a-Q8_0.gguf": 8}
    taken = {memory: choose(files, memory=memory) for memory in (9, 4, 3, 2, 1)}
    assert [choice.name for choice in taken.values()] == [
        *("a-Q4_K_M.gguf", "a-Q4_K_M.gguf", "a-Q3_K_M.gguf", "a-Q2_K.gguf", None)
    ]
    assert taken[1].why == "memory"
    error = hub._failure("a/b", hub.parse("a/b"), {"error": "NotMLC", "why": "memory",
                         "files": files, "message": ""})  # fmt: skip
    assert isinstance(error, InsufficientMemoryError)
    assert "a-Q2_K.gguf (0 MB)" in str(error)


@pytest.mark.parametrize(
    ("model_id", "wanted"),
    [
        ("user/repo", HubModel("user/repo")),
        ("user/repo@v1", HubModel("user/repo", "v1")),
        ("user/repo/x.gguf", HubModel("user/repo", None, "x.gguf")),
        ("HF://user/repo/a/x.gguf@b/c", HubModel("user/repo", "b/c", "a/x.gguf")),
        ("HF://u/r:q4_k_m@v1", HubModel("u/r", "v1", quantization="Q4_K_M")),
        ("u/r:IQ4_XS", HubModel("u/r", quantization="IQ4_XS")),
    ],
)
def test_names(model_id: str, wanted: HubModel) -> None:
    assert hub.parse(model_id) == wanted


async def test_no_network(server: HubServer) -> None:
    server.close()
    with pytest.raises(ModelDownloadError, match=r"could not be downloaded.*cannot be reached"):
        await hub.download(f"HF://{REPO}", Reports())

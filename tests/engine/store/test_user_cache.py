"""The user's cache: which folders and files it trusts, and what happens if it cannot be written."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_widget.engine.store import user_cache
from mlc_widget.engine.store.user_cache import UserCache, default_root

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to others"
)
STRANGER = 54321


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder; the cache's root is to be ``home/.cache/ours``."""
    (tmp_path / "home").mkdir(mode=0o755)
    return tmp_path / "home"


@pytest.fixture
def cache(home: Path) -> UserCache:
    cache = UserCache("codes", home / ".cache" / "ours")
    assert cache.write("a", b"good")
    assert cache.read("a") == b"good"
    return cache


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_all_folders_that_it_makes_are_private(home: Path) -> None:
    before = os.umask(0o002)
    try:
        cache = UserCache("codes", home / ".cache" / "ours")
        assert cache.write("a", b"x")
    finally:
        os.umask(before)
    for folder in (cache.folder, *cache.folder.parents[:2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((cache.folder / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("level", range(4), ids=["codes", "ours", ".cache", "home"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o720])
def test_a_folder_that_others_may_write_makes_it_unsafe(cache, caplog, level, mode):
    folder = [cache.folder, *cache.folder.parents][level]
    folder.chmod(mode)
    assert cache.read("a") is None
    assert not cache.write("b", b"new")
    [text] = warnings(caplog)
    assert f"`chmod go-w {folder}`" in text
    assert "MLC_WIDGET_HOME" in text
    folder.chmod(0o755)
    assert cache.read("a") == b"good"
    assert cache.read("b") is None


@pytest.mark.parametrize("level", range(4), ids=["codes", "ours", ".cache", "home"])
@needs_root
def test_a_folder_of_another_user_makes_it_unsafe(cache, caplog, level):
    folder = [cache.folder, *cache.folder.parents][level]
    os.chown(folder, STRANGER, -1)
    assert cache.read("a") is None
    assert not cache.write("b", b"new")
    [text] = warnings(caplog)
    assert f"{folder} belongs to another user" in text


def test_one_warning_for_all_folders_of_a_cache(home, caplog):
    home.chmod(0o777)
    for name in ("codes", "plans", "codes"):
        UserCache(name, home / "ours").read("a")
        UserCache(name, home / "ours").write("a", b"x")
    assert len(warnings(caplog)) <= 1  # there is nothing to read yet, so perhaps none
    assert not (home / "ours").exists()


def test_a_sticky_folder_above_is_safe(home, caplog):
    home.chmod(0o1777)
    cache = UserCache("codes", home / "ours")
    assert cache.write("a", b"x")
    assert cache.read("a") == b"x"
    cache.folder.chmod(0o1777)
    assert cache.read("a") is None
    assert len(warnings(caplog)) == 1


def test_links_are_followed_where_only_we_can_have_made_them(home, tmp_path, caplog):
    (tmp_path / "scratch").mkdir(mode=0o700)
    (home / ".cache").symlink_to(Path("..") / "scratch")
    cache = UserCache("codes", home / ".cache" / "ours")
    assert cache.write("a", b"x")
    assert (tmp_path / "scratch" / "ours" / "codes" / "a").read_bytes() == b"x"
    assert cache.read("a") == b"x"
    (tmp_path / "scratch").chmod(0o777)
    assert cache.read("a") is None
    assert "scratch" in warnings(caplog)[0]


@needs_root
def test_a_link_that_another_user_made_is_not_followed(home, tmp_path, caplog):
    (tmp_path / "scratch").mkdir(mode=0o700)
    home.chmod(0o1777)
    (home / "ours").symlink_to(tmp_path / "scratch")
    os.lchown(home / "ours", STRANGER, -1)
    assert not UserCache("codes", home / "ours").write("a", b"x")
    assert f"{home / 'ours'} belongs to another user" in warnings(caplog)[0]
    assert not list((tmp_path / "scratch").iterdir())


def test_links_in_a_circle_end(home, caplog):
    (home / "ours").symlink_to(home / "theirs")
    (home / "theirs").symlink_to(home / "ours")
    assert not UserCache("codes", home / "ours").write("a", b"x")
    assert os.strerror(errno.ELOOP) in warnings(caplog)[0]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"good")
    path.symlink_to("elsewhere")


def _dead_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            s.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        finally:
            os.close(descriptor)


def _too_large(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, user_cache.LARGEST + 1)


def _group_may_write(path: Path) -> None:
    path.write_bytes(b"bad")
    path.chmod(0o660)


def _of_a_stranger(path: Path) -> None:
    path.write_bytes(b"bad")
    path.chmod(0o644)
    os.chown(path, STRANGER, -1)


@pytest.mark.parametrize(
    "make",
    [
        _fifo, _folder, _link, _dead_link, _too_large, _group_may_write,
        pytest.param(
            _socket,
            marks=pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
        ),
        pytest.param(_of_a_stranger, marks=needs_root),
    ],
)  # fmt: skip
def test_what_is_no_file_of_ours_is_not_read_but_replaced(
    cache: UserCache, make: Callable[[Path], None]
) -> None:
    (cache.folder / "a").unlink()
    make(cache.folder / "a")
    assert cache.read("a") is None
    assert cache.write("a", b"new")
    assert cache.read("a") == b"new"
    assert not (cache.folder / "a").is_symlink()
    assert {p.name for p in cache.folder.iterdir()} <= {"a", "elsewhere"}


def test_a_folder_that_is_exchanged_after_the_check_is_not_read(cache, home, monkeypatch):
    read = user_cache._read

    def exchange(at, name):
        cache.folder.rename(home / "away")
        cache.folder.mkdir(mode=0o700)
        (cache.folder / "a").write_bytes(b"bad")
        return read(at, name)

    monkeypatch.setattr(user_cache, "_read", exchange)
    assert cache.read("a") == b"good"


def test_a_file_that_is_exchanged_while_it_is_read_is_not_seen(cache, monkeypatch):
    fstat = os.fstat

    def exchange(descriptor):
        info = fstat(descriptor)
        if stat.S_ISREG(info.st_mode):
            (cache.folder / "b").write_bytes(b"bad!")
            (cache.folder / "b").replace(cache.folder / "a")
        return info

    monkeypatch.setattr(user_cache.os, "fstat", exchange)
    assert cache.read("a") == b"good"


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG"])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_what_cannot_be_written_leaves_nothing_behind(cache, monkeypatch, caplog, code, call):
    number = getattr(errno, code)
    real = getattr(os, call)

    def fail(*args, **kwargs):
        if call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(user_cache.os, call, fail)
        assert not cache.write("a", b"new")
        assert not cache.write("b", b"new")
    assert [p.name for p in cache.folder.iterdir()] == ["a"]
    assert cache.read("a") == b"good"
    [text] = warnings(caplog)
    assert os.strerror(number) in text
    assert str(cache.folder.parent) in text
    assert "MLC_WIDGET_HOME" in text


@pytest.mark.parametrize("level", range(3), ids=["codes", "ours", ".cache"])
def test_a_file_where_a_folder_should_be(home, caplog, level):
    cache = UserCache("codes", home / ".cache" / "ours")
    folder = [cache.folder, *cache.folder.parents][level]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    assert not cache.write("a", b"x")
    assert cache.read("a") is None
    assert os.strerror(errno.ENOTDIR) in warnings(caplog)[0]
    assert folder.read_text() == "in the way"


def test_a_file_system_that_is_full(tmp_path, caplog):
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(tmp_path / "small")]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user cannot mount a file system")
    try:
        cache = UserCache("codes", tmp_path / "small")
        assert cache.write("a", bytes(1000))
        assert not cache.write("b", bytes(100_000))
        assert [p.name for p in cache.folder.iterdir()] == ["a"]
        assert os.strerror(errno.ENOSPC) in warnings(caplog)[0]
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_a_limit_of_file_sizes(tmp_path):
    code = f"""
import resource
from pathlib import Path
from mlc_widget.engine.store.user_cache import UserCache
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
cache = UserCache("codes", Path({str(tmp_path)!r}))
assert not cache.write("a", bytes(5000)) and not cache.write("a", bytes(5001))
assert cache.write("b", bytes(4000))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("cannot be used as a cache") == 1
    assert [p.name for p in (tmp_path / "codes").iterdir()] == ["b"]


def test_a_user_without_a_home(monkeypatch, caplog):
    for name in ("MLC_WIDGET_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    assert UserCache("codes").read("a") is None
    assert not UserCache("codes").write("a", b"x")
    assert "MLC_WIDGET_HOME" in caplog.text


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("MLC_WIDGET_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "mlc_widget"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_root() == Path.home() / ".cache" / "mlc_widget"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "mlc_widget"

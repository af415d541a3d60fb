"""The file of replies: private, bounded, shared by processes, and never the end of a map."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_widget import BadRequestError
from mlc_widget.api.table.reply_cache import Reply, ReplyCache, open_cache


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def test_what_was_put_is_found_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "replies"
    cache = ReplyCache(path)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mlc_widget.api.table.reply_cache import Reply, ReplyCache\n"
        f"c = ReplyCache(Path({str(path)!r})); print(c.get(bytes(31) + b'\\x01'))\n"
        "c.put(bytes(31) + b'\\x02', Reply('two', 'stop')); sys.stdout.flush(); os._exit(9)"
    )
    cache.put(key(1), Reply("é {x}", "length"))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == repr(Reply("é {x}", "length")), ran.stderr
    assert cache.get(key(2)) == Reply("two", "stop"), "lost with the process that put it"
    assert cache.get(key(3)) is None
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    cache.close()
    cache.close()


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "replies"
    cache = ReplyCache(path)
    for n in range(400):
        cache.put(key(n), Reply("x" * 2000, "stop"))
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE replies SET used = 5")
    db.close()
    cache = ReplyCache(path, largest=400_000)
    assert cache.get(key(0)) is not None
    cache.put(key(1000), Reply("new", "stop"))
    cache.close()
    assert path.stat().st_size <= 400_000
    cache = ReplyCache(path)
    assert cache.get(key(0)) is not None, "it was used just now"
    assert cache.get(key(1000)) is not None
    assert cache.get(key(1)) is None
    cache.close()


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    other, text = tmp_path / "other.sqlite", tmp_path / "notes.txt"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    text.write_text("not a database, and longer than a header of one" * 100)
    for path in (other, text):
        before = path.read_bytes()
        with pytest.raises(BadRequestError, match=r"^cache = .*Give another path") as caught:
            open_cache(path)
        assert caught.value.param == "cache"
        assert path.read_bytes() == before
    with pytest.raises(BadRequestError, match="cannot be used"):
        open_cache(str(tmp_path / "missing" / "file"))
    with pytest.raises(BadRequestError, match="give True, False"):
        open_cache(3)
    assert open_cache(False) is None


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies"
    path.touch(mode=0o600)
    path.chmod(0o666)
    with pytest.raises(BadRequestError, match="other users can write"):
        open_cache(path)
    path.chmod(0o600)
    for mode in (0o775, 0o1777):  # a folder that is shared, as with umask 002, and as /tmp
        tmp_path.chmod(mode)
        cache = open_cache(path)
        assert cache is not None
        cache.close()


def test_the_users_own_file_is_made_anew_if_it_is_damaged(own_cache: Path) -> None:
    cache = open_cache(True)
    assert cache is not None
    assert cache.path == own_cache
    cache.put(key(1), Reply("a", "stop"))
    cache.close()
    own_cache.write_bytes(b"\0broken" * 1000)
    cache = open_cache(True)
    assert cache is not None
    assert cache.get(key(1)) is None
    cache.put(key(1), Reply("b", "stop"))
    assert cache.get(key(1)) == Reply("b", "stop")
    cache.close()


def test_without_a_place_for_it_a_map_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "file"))
    assert open_cache(True) is None
    assert "not cached" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_users_own_folder_must_be_private(
    own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.parent.chmod(0o777)
    assert open_cache(True) is None
    assert "other users can write" in caplog.text


def test_a_fault_while_it_is_used_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ReplyCache(tmp_path / "replies")
    assert cache._db is not None
    cache._db.execute("DROP TABLE replies")
    cache.put(key(1), Reply("a", "stop"))
    cache.put(key(2), Reply("a", "stop"))
    assert cache.get(key(1)) is None
    assert caplog.text.count("no longer cached") == 1
    cache.close()

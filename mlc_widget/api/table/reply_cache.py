"""A file of replies that were computed before, bounded in size, for any number of processes."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.places import user_cache_root
from mlc_widget.api.request_values import bad

logger = logging.getLogger(__name__)

LARGEST: Final = 512 << 20
"""Bytes of a cache; beyond that, what was not used for longest is removed."""
FILE: Final = Path("map") / "replies.sqlite"
"""The file in the user's cache."""

_APPLICATION: Final = 0x6D6C6377  # "mlcw": tells our files from other databases
_VERSION: Final = 2
_BUSY_S: Final = 2.0
_EVERY: Final = 1000
"""New replies between two looks at the size."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS replies (
    key BLOB NOT NULL UNIQUE, text TEXT NOT NULL, finish TEXT NOT NULL, used INTEGER NOT NULL,
    model TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS replies_used ON replies (used);
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: its text, and why it ended."""

    text: str
    finish: str


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a cache holds of one model.

    Attributes:
        model: The model's id; empty for replies of which it is not known.
        entries: The number of replies.
        nbytes: The bytes of their texts.
        last_used: When one of them was last used, in seconds since 1970.
    """

    model: str
    entries: int
    nbytes: int
    last_used: int


class ReplyCache:
    """An open file of replies, used by one thread.

    A fault of the file while it is used, such as a full disk, is logged once, and nothing is cached
    from then on.

    Args:
        path: The file, which is made if it is missing.
        largest: The most bytes of all replies.

    Raises:
        OSError: It cannot be made, or others could write to it.
        sqlite3.Error: It is damaged, or no file of this kind.
    """

    def __init__(self, path: Path, largest: int = LARGEST) -> None:
        self._largest = largest
        self._hits: list[bytes] = []
        self._puts = 0
        self.path = path
        _make_private(path)
        self._db: sqlite3.Connection | None = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(self._db)
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def _prepare(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA trusted_schema = OFF")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application != _APPLICATION or version not in (1, _VERSION)):
            raise sqlite3.DatabaseError("it is another program's database")
        if not tables:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # A reply must survive the end of this process, not that of the machine.
        with contextlib.suppress(sqlite3.OperationalError):  # another process is doing the same
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.executescript(_TABLE)
        elif version == 1:  # its replies do not say of which model they are
            with contextlib.suppress(sqlite3.OperationalError):  # another process did it just now
                db.execute("ALTER TABLE replies ADD COLUMN model TEXT NOT NULL DEFAULT ''")
            db.execute(f"PRAGMA user_version = {_VERSION}")

    def get(self, key: bytes) -> Reply | None:
        """The reply that was put there; None if there is none."""
        if self._db is None:
            return None
        try:
            found = self._db.execute(
                "SELECT text, finish FROM replies WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        if found is None or not all(isinstance(value, str) for value in found):
            return None
        self._hits.append(key)
        if len(self._hits) >= _EVERY:
            self._note_use()
        return Reply(*found)

    def put(self, key: bytes, reply: Reply, model: str = "") -> None:
        """Keep a reply of a model; once this returns, it outlives the process."""
        if self._db is None:
            return
        row = (key, reply.text, reply.finish, int(time.time()), model)
        try:
            self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)
            self._puts += 1
            if self._puts % _EVERY == 0:
                self._shrink()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            self._give_up(error)

    def close(self) -> None:
        """Note what was used, make room, and close the file. Idempotent."""
        if self._db is None:
            return
        self._note_use()
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                if self._puts:
                    self._shrink()
                self._db.close()
            self._db = None

    def usage(self) -> list[CacheUse]:
        """What the file holds, by model; the largest first."""
        if self._db is None:
            return []
        found = self._db.execute(
            "SELECT model, count(*), sum(length(CAST(text AS BLOB))), max(used) "
            "FROM replies GROUP BY model ORDER BY 3 DESC"
        )
        return [CacheUse(str(name), count, size, used) for name, count, size, used in found]

    def clear(self, model: str | None = None) -> int:
        """Remove the replies of a model, or all; returns how many they were."""
        if self._db is None:
            return 0
        self._hits.clear()
        if model is None:
            removed = self._db.execute("DELETE FROM replies").rowcount
        else:
            removed = self._db.execute("DELETE FROM replies WHERE model = ?", (model,)).rowcount
        self._db.executescript("PRAGMA incremental_vacuum")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def _note_use(self) -> None:
        if self._db is None or not self._hits:
            return
        now = int(time.time())
        hits, self._hits = self._hits, []
        try:
            self._db.execute("BEGIN")
            self._db.executemany(
                "UPDATE replies SET used = ? WHERE key = ? AND used < ?",
                [(now, key, now) for key in hits],
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _shrink(self) -> None:
        """Remove what was not used for longest, down to nine tenths of the limit."""
        db = self._db
        assert db is not None
        if self._size(db) <= self._largest:
            return
        self._note_use()
        while self._size(db) > self._largest * 0.9:
            (count,) = db.execute("SELECT count(*) FROM replies").fetchone()
            if not count:
                break
            db.execute(
                "DELETE FROM replies WHERE key IN (SELECT key FROM replies ORDER BY used LIMIT ?)",
                (count // 10 + 1,),
            )
        db.executescript("PRAGMA incremental_vacuum")  # which steps until it is done

    @staticmethod
    def _size(db: sqlite3.Connection) -> int:
        def pragma(name: str) -> int:
            return int(db.execute(f"PRAGMA {name}").fetchone()[0])

        return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")

    def _give_up(self, error: Exception) -> None:
        db, self._db = self._db, None
        logger.warning("%s: %s. Replies are no longer cached in this map.", self.path, error)
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


def _make_private(path: Path) -> None:
    """Make the file, for this user only, and refuse one that others could have written."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(f"{path} is not a regular file")
    _check_private(info, path)


def _check_private(info: os.stat_result, path: Path) -> None:
    if os.name == "posix" and (
        info.st_uid not in (0, os.geteuid()) or info.st_mode & _OTHERS_WRITE
    ):
        raise PermissionError(
            f"other users can write to {path}; run `chmod go-w {path}`, or give another place"
        )


def open_cache(cache: Any) -> ReplyCache | None:
    """Open what the argument ``cache`` of a map says: True, False or a path.

    If the user's own cache cannot be used, that is logged, and there is none.

    Raises:
        BadRequestError: It is none of these, or the file cannot be used.
    """
    if cache is False or cache is None:
        return None
    if cache is True:
        return _open_own()
    if not isinstance(cache, str | os.PathLike):
        raise bad("cache", cache, "give True, False, or the path of a file.")
    path = Path(cache).expanduser()
    try:
        return ReplyCache(path)
    except (OSError, sqlite3.Error) as error:
        remedy = f"the file cannot be used as a cache: {error}. Give another path."
        raise bad("cache", str(cache), remedy) from error


def _open_own() -> ReplyCache | None:
    try:
        path = own_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path.parent.stat(), path.parent)
        try:
            return ReplyCache(path)
        except sqlite3.OperationalError:  # locked, or no room: not the file's fault
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged (%s) and is replaced by a new file.", path, error)
            for end in ("", "-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
            return ReplyCache(path)
    except (OSError, sqlite3.Error) as error:
        logger.warning("Replies of maps are not cached: %s.", error)
        return None


def own_file() -> Path:
    """The file of the user's cache."""
    return user_cache_root().absolute() / FILE


def existing_cache(path: Path) -> ReplyCache | None:
    """Open a file of replies to look at it or clear it; None if there is none.

    Raises:
        BadRequestError: It is something else, or cannot be used.
    """
    if not path.exists():
        return None
    try:
        return ReplyCache(path)
    except (OSError, sqlite3.Error) as error:
        raise bad("file", str(path), f"it cannot be used as a cache: {error}.") from error

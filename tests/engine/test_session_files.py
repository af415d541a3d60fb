"""Files of sessions that others write, delete or begin anew at the same time, and hostile ones."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.sessions import session_journal, session_store
from mlc_widget.engine.sessions.session_file import (
    MAX_SESSION_BYTES,
    MAX_SESSION_LINES,
    Header,
    encode_chunk,
    read_session,
    split_request,
)
from mlc_widget.engine.sessions.session_store import SessionStore

REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "A question"}],
    "model": "tiny",
    "request_id": "r",
    "seed": 7,
    "temperature": 0.5,
    "logit_bias": {"70": 2.0},
}
SALT = "5a17"


def header(
    *, exact: bool = True, stored: bool = False, fingerprint: str = "f", **more: Any
) -> Header:
    request, digests = split_request({**REQUEST, **more}, SALT, stored=stored)
    return Header("one", 1, "tiny", fingerprint, exact, 5, request, digests, SALT)


def part(journal: Any, text: str = "", reason: str | None = None) -> bytes:
    choice = {"delta": {"content": text}, "finish_reason": reason}
    return encode_chunk({"choices": [choice]}, journal)


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "one.jsonl"


def kept(store: SessionStore, begun: Header, *parts: bytes) -> None:
    journal = store.begin(begun)
    journal.append(b"".join(parts))
    journal.close()


ENDED = (part([1], "Answer"), part([2], " one", "stop"))


@pytest.mark.parametrize("parts", [ENDED, ENDED[:1]], ids=["ended", "begun"])
@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "Another question"}]},
        {"temperature": 0.6},
        {"logit_bias": {"71": 2.0}},
        {"top_p": 0.5},
        {"stop": ["x"]},
        {"request_id": "s"},
        {"seed": 8},
        {"model": "other"},
        {"stored": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_request_leaves_an_answer_as_it_is(
    store: SessionStore, path: Path, other: dict[str, Any], parts: tuple[bytes, ...]
) -> None:
    kept(store, header(), *parts)
    before = path.read_bytes()
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        store.reopen("one", 0, header(**other))
    assert path.read_bytes() == before


def test_a_request_that_is_sent_again_goes_on(store: SessionStore, path: Path) -> None:
    kept(store, header(), *ENDED)
    assert store.salt("one") == SALT
    assert store.salt("two") is None
    journal = store.reopen("one", 1, dataclasses.replace(header(), created=2))
    journal.append(ENDED[1])
    journal.close()
    assert store.read("one").text == "Answer one"


def test_what_would_not_be_computed_again_is_not_overwritten(store: SessionStore) -> None:
    kept(store, header(exact=False), part("Answer", "Answer"), part(" one", " one", "stop"))
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        store.reopen("one", 0, header(exact=False))
    store.reopen("one", 6, header(exact=False)).close()  # of a worker that died
    assert store.read("one").text == "Answer"


@pytest.mark.parametrize("change", [{"fingerprint": "g"}, {"exact": False}])
def test_another_model_or_runtime_does_not_write_to_it(
    store: SessionStore, change: dict[str, Any]
) -> None:
    kept(store, header(), ENDED[0])
    with pytest.raises(BadRequestError, match="have changed"):
        store.reopen("one", 0, header(**change))
    assert store.read("one").text == "Answer"


# What other processes do at the same time


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def meanwhile(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Let another process do something between the opening of a file and its locking."""
    lock = session_store.try_lock

    def late(fd: int) -> bool:
        monkeypatch.setattr(session_store, "try_lock", lock)
        what()
        return lock(fd)

    monkeypatch.setattr(session_store, "try_lock", late)


def test_a_session_that_is_deleted_while_it_begins_is_made_again(
    store: SessionStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: store.delete("one"))
    kept(store, header(), *ENDED)
    assert store.read("one").text == "Answer one"


def test_a_session_does_not_begin_over_another_that_takes_its_place(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        store.delete("one")
        kept(store, header(seed=8), *ENDED)

    meanwhile(monkeypatch, replace)
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        store.begin(header())
    assert store.read("one").header.request["seed"] == 8
    assert store.read("one").text == "Answer one"


def test_a_session_that_cannot_be_locked_does_not_begin(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "_LOCK_S", 0.0)
    monkeypatch.setattr(session_store, "try_lock", lambda fd: False)
    with pytest.raises(OSError, match="locked the new file"):
        store.begin(header())


@pytest.mark.parametrize("again", [False, True], ids=["gone", "begun again"])
def test_a_session_that_is_deleted_while_it_is_opened_is_opened_anew(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    def replace() -> None:
        store.delete("one")
        if again:
            kept(store, header(), part([1], "Another"))

    kept(store, header(), *ENDED)
    meanwhile(monkeypatch, replace)
    if not again:
        with pytest.raises(BadRequestError, match="no such session"):
            store.reopen("one", 1, header())
        return
    journal = store.reopen("one", 1, header())
    journal.append(part([2], " answer"))
    journal.close()
    assert store.read("one").text == "Another answer"


@pytest.mark.parametrize("old", [False, True], ids=["delete", "remove the oldest"])
def test_a_new_session_is_not_removed_in_place_of_an_old_one(
    store: SessionStore, path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    with contextlib.ExitStack() as stack:

        def replace() -> None:
            path.unlink()
            kept(store, header(seed=8), *ENDED)
            stack.enter_context(locked(path))

        kept(store, header(), *ENDED)
        meanwhile(monkeypatch, replace)
        if old:
            session_store._remove(path)
        else:
            store.delete("one")
        assert store.read("one").header.request["seed"] == 8


def test_delete_says_why_it_could_not(
    store: SessionStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(store, header(), *ENDED)
    with locked(path), pytest.raises(BadRequestError, match="a request is writing"):
        store.delete("one")
    (path.parent / "folder.jsonl").mkdir()
    with pytest.raises(BadRequestError, match=r"folder.jsonl cannot be removed: .*[a-z]"):
        store.delete("folder")

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(BadRequestError, match=r"cannot be removed: Permission denied\."):
            store.delete("one")
    store.delete("one")
    store.delete("one")
    assert not path.exists()


# Hostile files


def spoilt(**changes: Any) -> bytes:
    content = json.loads(header(stored=True).encode())
    request = changes.pop("request", {})
    return json.dumps({**content, **changes, "request": content["request"] | request}).encode()


HOSTILE = {
    "a count": spoilt(prompt_tokens=10**30),
    "a date": spoilt(created=2**53),
    "half a surrogate pair in a model": spoilt(model_id="\ud800"),
    "half a surrogate pair in a salt": spoilt(salt="\udfff"),
    "half a surrogate pair in a fingerprint": spoilt(fingerprint="a\ud83d"),
    "half a surrogate pair in a message": spoilt(
        request={"messages": [{"role": "user", "content": "\ud800"}]}
    ),
    "half a surrogate pair, raw": spoilt().replace(b"tiny", b"\xed\xa0\x80"),
    "half a surrogate pair as a digest": spoilt(digests={"\ud800": "0"}),
    "UTF-16": spoilt().decode().encode("utf-16-le").replace(b"\n", b""),
    "a digest of no text": spoilt(digests={"temperature": "0"}),
    "a field with its digest": spoilt(digests={"logit_bias": "0"}),
    "a long model": spoilt(model_id="m" * 100_000),
    "a temperature": spoilt(request={"temperature": 10**30}),
    "no number": spoilt(request={"temperature": float("nan")}),
    "an id": spoilt(request={"request_id": "r" * 100_000}),
    "a depth": spoilt(request={"metadata": json.loads("[" * 90 + "]" * 90)}),
    "half a surrogate pair in a part": spoilt() + b'\n{"journal":[1],"text":"\\uDC00"}',
    "half a surrogate pair in a name": spoilt() + b'\n{"journal":[1],"text":"","\\ud800":1}',
    "a raw half in a part": spoilt() + b'\n{"journal":[1],"text":"\xed\xb0\x80"}',
    "digits": spoilt() + b'\n{"continue_from":' + b"9" * 10_000 + b"}",
    "a part of nothing": spoilt() + b'\n{"journal":[],"text":"","finish_reason":null}',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_listed_as_such_and_refused(
    store: SessionStore, path: Path, kind: str
) -> None:
    kept(store, header(stored=True))
    path.write_bytes(HOSTILE[kind] + b"\n")
    (listed,) = store.list()
    assert "its file cannot be used" in listed.reason
    json.dumps(listed.to_wire(), ensure_ascii=False).encode()
    with pytest.raises(BadRequestError, match="Delete the session"):
        store.read("one").request(REQUEST)


def test_pairs_of_surrogates_are_texts_as_all_others(store: SessionStore) -> None:
    emoji = [{"role": "user", "content": "\N{PARTY POPPER} Glückwunsch"}]
    kept(store, header(stored=True, messages=emoji), part([1], "\N{PARTY POPPER}"))
    state = store.read("one")
    assert state.text == "\N{PARTY POPPER}"
    assert state.request({})["messages"] == emoji


@pytest.mark.parametrize(
    ("line", "times", "why"),
    [
        (b'{"journal":[],"text":"","finish_reason":null}\n', 2**17, "has 131073 lines"),
        (b'{"journal":[1],"text":"","finish_reason":null}\n', 2**18, "has 262145 lines"),
        (b"\n", MAX_SESSION_BYTES - 2000, "lines, more than"),
        (b'{"journal":[' + b"1," * 2**20 + b'1],"text":""}\n', 1, "1048577 tokens by line 2"),
    ],
    ids=["empty parts", "small parts", "empty lines", "one large part"],
)
def test_files_that_would_take_long_are_refused_by_their_size(
    line: bytes, times: int, why: str
) -> None:
    with pytest.raises(BadRequestError, match=why):
        read_session("one", header().encode() + line * times)


def test_no_more_lines_are_written_than_can_be_read(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_SESSION_LINES * 64 < MAX_SESSION_BYTES
    monkeypatch.setattr(session_journal, "MAX_SESSION_LINES", 4)
    kept(store, header(), *ENDED)
    journal = store.reopen("one", 1, header())
    with pytest.raises(OSError, match="more than 4 lines"):
        journal.append(ENDED[1])
    journal.close()
    assert store.read("one").text == "Answer"


def test_what_holds_nothing_is_not_written() -> None:
    assert part([]) == part("") == b""
    assert all([part([1]), part([], "a"), part([], "", "stop")])


def test_a_file_is_not_its_own_after_its_removal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        assert session_store.is_at(path, fd)
        path.unlink()
        assert not session_store.is_at(path, fd)
        path.touch()
        assert not session_store.is_at(path, fd)
        path.unlink()
        path.symlink_to(tmp_path)
        assert not session_store.is_at(path, fd)
    finally:
        os.close(fd)

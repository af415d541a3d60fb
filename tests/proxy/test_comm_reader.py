"""What comes from the worker is read as jupyter_client reads it, and checked as there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jupyter_client.session import Session

from mlc_widget.proxy import comm_reader
from mlc_widget.proxy.comm_reader import CommReader

KEY = b"secret"
CONTENT: dict[str, Any] = {"comm_id": "c", "data": {"kind": "chunks", "content": ["é", 2026, None]}}


def frames_of(content: Any, kind: str = "comm_msg", key: bytes = KEY) -> list[bytes]:
    session = Session(key=key)
    parent = session.msg("comm_msg", {})
    return session.serialize(session.msg(kind, content, parent=parent), ident=b"comm-c")


@pytest.mark.parametrize("kind", ["comm_msg", "comm_close"])
@pytest.mark.parametrize("key", [KEY, b""], ids=["signed", "without a key"])
def test_it_reads_what_jupyter_client_reads(kind: str, key: bytes) -> None:
    frames = frames_of(CONTENT, kind, key)
    theirs = Session(key=key)
    message = theirs.deserialize(theirs.feed_identities(frames)[1])
    assert (message["msg_type"], message["content"]) == (kind, CONTENT)
    assert CommReader(Session(key=key)).read(frames) == (kind, CONTENT)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda frames: [*frames[:-1], frames[-1] + b" "], "missing or wrong"),
        (lambda frames: [*frames[:2], b"", *frames[3:]], "missing or wrong"),
        (lambda frames: frames[:-1], "not enough values"),
        (lambda frames: frames[:2], "not enough values"),
        (lambda frames: frames[2:], "is not in list"),
        (lambda frames: frames_of(CONTENT, key=b"another"), "missing or wrong"),
    ],
    ids=["changed", "unsigned", "cut off", "no parts", "no delimiter", "of another kernel"],
)
def test_it_refuses_what_is_not_from_the_worker(
    change: Callable[[list[bytes]], list[bytes]], error: str
) -> None:
    frames = frames_of(CONTENT)
    reader = CommReader(Session(key=KEY))
    with pytest.raises(ValueError, match=error):
        reader.read(change(frames))
    assert reader.read(frames) == ("comm_msg", CONTENT)


def test_it_refuses_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm_reader, "_REMEMBERED", 2)
    reader = CommReader(Session(key=KEY))
    first, *others = [frames_of({"data": i}) for i in range(3)]
    reader.read(first)
    for frames in (first, others[0], first):
        if frames is first:
            with pytest.raises(ValueError, match="came before"):
                reader.read(frames)
        else:
            reader.read(frames)
    reader.read(others[1])
    assert len(reader._seen) == len(reader._in_order) == 2

"""A body of many parts is refused before it is parsed, and a large text is not."""

from __future__ import annotations

import json
import time

import pytest

from mlc_widget.api import json_body
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.json_body import read_json_body


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("[" + "[]," * 70_000 + "0]", "objects and arrays"),
        ("[" + ",".join(["[" * 900 + "]" * 900] * 80) + "]", "objects and arrays"),
        ("{" + ",".join(f'"{i}":0' for i in range(70_000)) + "}", "keys"),
        ("[" + "0," * 1_200_000 + "0]", "values"),
        ('["' + 'x","' * 300_000 + '"]', "texts"),
        ("[" + ",".join(["9" * 4000] * 1000) + "]", "bytes in numbers"),
    ],
    ids=["arrays", "nested", "keys", "values", "texts", "numbers"],
)
def test_many_parts_are_refused(body: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body.json, "loads", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(BadRequestError, match=rf"has \d+ {what}; it may have at most \d+"):
        read_json_body(body.encode())


@pytest.mark.parametrize("text", ["a, b: [{c}] ", '\\"', "\\\\", "\\\\\\", '\\"{[,:', "é\n"])
def test_what_is_in_a_text_does_not_count(text: str) -> None:
    body = {"a": [text * 100_000, 1.5], "b": text}
    started = time.process_time()
    assert read_json_body(json.dumps(body).encode()) == body
    assert time.process_time() - started < 5


def test_as_many_ids_as_a_prompt_may_have_are_read() -> None:
    assert len(read_json_body(b"[" + b"1, " * (2**20 - 1) + b"2]")) == 2**20


def test_parts_cannot_be_hidden_by_another_encoding() -> None:
    with pytest.raises(BadRequestError, match=r"is in utf-16.*UTF-8"):
        read_json_body('["\\"", 0]'.encode("utf-16-le"))
    assert read_json_body("[1]".encode("utf-8-sig")) == [1]

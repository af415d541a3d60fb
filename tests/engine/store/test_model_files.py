"""A model folder may contain anything: what is wrong is refused at once, and by name."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.store.model_files import open_regular, read_file, read_json_object
from mlc_widget.engine.store.model_folder import CONFIG_FILE, read_config


def folder_in_place(path: Path) -> None:
    path.mkdir()


def socket_in_place(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(path.parent)  # its address may not be long
        s.bind(path.name)


IN_PLACE = {
    "pipe": (os.mkfifo, "is a pipe"),
    "folder": (folder_in_place, "is a folder"),
    "socket": (socket_in_place, "cannot be read|is a socket"),
    "device without end": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "device without data": (lambda path: path.symlink_to("/dev/tty"), "is a device|cannot be read"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "link to nothing": (lambda path: path.symlink_to(path.parent / "none"), "is missing"),
    "huge": (lambda path: path.touch() or os.truncate(path, 1 << 40), "has 1099511627776 bytes"),
}


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and links")
@pytest.mark.parametrize(("make", "match"), IN_PLACE.values(), ids=IN_PLACE)
def test_what_is_no_file_is_never_waited_for(tmp_path, monkeypatch, make, match):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / CONFIG_FILE
    make(path)
    with pytest.raises(ModelFormatError, match=match) as caught:
        read_file(path, 1000, "Put it there.")
    assert caught.value.param == str(path)
    with pytest.raises(ModelFormatError, match=match):
        read_config(tmp_path, None)
    if "bytes" not in match:
        with pytest.raises((ModelFormatError, OSError)):
            open_regular(path)


JSON = {
    "deep": "[" * 10**6,
    "deep and whole": '{"a":' * 500 + "1" + "}" * 500,
    "deep strings": '{"a":[' * 10**5 + '"' + "]" * 10**5,
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": "[]",
    "a huge number": '{"a": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_json_that_is_wrong_is_one_error(tmp_path, content):
    path = tmp_path / CONFIG_FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelFormatError, match="restore it") as caught:
        read_json_object(path, 1 << 24, "", "restore it")
    assert len(caught.value.message) < 1000


def test_a_file_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_file(path, 3, "") == b"abc"
    (tmp_path / "link").symlink_to(path)
    assert read_file(tmp_path / "link", 3, "") == b"abc"


ABSURD = [-2, 2**31, 10**400, 1.5, float("nan"), float("inf"), True, "1", [1], {"a": 1}]
SIZES = ["context_window_size", "sliding_window_size", "prefill_chunk_size", "max_tokens",
         "top_k", "dry_allowed_length"]  # fmt: skip
DEFAULTS = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
            "min_p", "typical_p", "dry_multiplier", "dry_base"]  # fmt: skip


@pytest.mark.parametrize("field", [*SIZES, *DEFAULTS])
def test_numbers_that_make_no_sense_are_named(tmp_path, field):
    for value in ABSURD:
        if field in DEFAULTS and value in (1.5, -2):
            continue  # a number that some of them may be
        (tmp_path / CONFIG_FILE).write_text(json.dumps({field: value}))
        with pytest.raises(ModelFormatError, match=field) as caught:
            read_config(tmp_path, None)
        assert caught.value.param == field
        assert len(caught.value.message) < 500


@pytest.mark.parametrize("value", [-1, 2**31, True, "2", [2.0], [[2]], {"a": 2}, [2] * 10**5])
def test_token_ids_that_are_none_are_named(tmp_path, value):
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelFormatError, match="eos_token_id"):
        read_config(tmp_path, None)
    template = {"roles": {"user": "", "assistant": ""}, "role_templates": {}}
    with pytest.raises(ModelFormatError, match="stop_token_ids"):
        ConversationTemplate.from_config({"conv_template": {**template, "stop_token_ids": value}})


def test_what_models_say_is_taken(tmp_path):
    config = {
        "context_window_size": -1, "sliding_window_size": 4096, "prefill_chunk_size": 2048,
        "temperature": 0.6, "top_p": 0.9, "presence_penalty": None, "eos_token_id": [1, 2],
    }  # fmt: skip
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert read_config(tmp_path, {"top_p": 0.5}) == {**config, "top_p": 0.5}

"""Errors keep their class over the wire, with the other side's traceback as their cause."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from mlc_widget.api import errors
from mlc_widget.api.errors import InternalEngineError, MLCEngineError
from mlc_widget.protocol.errors import RemoteTraceback, decode_error, encode_error

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, MLCEngineError)
]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_class_arrives_as_itself(cls: type[MLCEngineError]) -> None:
    error = raised(cls("What is wrong.", param="field", request_id="r"))
    encoded = json.loads(json.dumps(encode_error(error)))
    arrived = decode_error("What is wrong.", encoded)
    assert type(arrived) is cls
    assert (arrived.message, str(arrived)) == ("What is wrong.", "What is wrong.")
    assert (arrived.code, arrived.param, arrived.request_id) == (cls.default_code, "field", "r")
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "in raised" in str(arrived.__cause__)
    assert "What is wrong." not in str(arrived.__cause__)  # which would show it twice


def test_anything_else_arrives_as_an_internal_error() -> None:
    arrived = decode_error("", encode_error(raised(ZeroDivisionError("by zero"))))
    assert type(arrived) is InternalEngineError
    assert arrived.message == "ZeroDivisionError: by zero"


@pytest.mark.parametrize("name", ["ValueError", "annotations", "ClassVar", "", None, "__doc__"])
def test_a_name_that_is_no_error_of_ours_is_not_looked_up(name: str | None) -> None:
    arrived = decode_error("text", {"type": name, "message": "text"})
    assert type(arrived) is InternalEngineError


def test_a_throw_without_an_error_object() -> None:
    arrived = decode_error("only a text", None)
    assert type(arrived) is InternalEngineError
    assert arrived.message == "only a text"


def test_the_documented_tree_is_the_tree() -> None:
    assert errors.__doc__ is not None
    tree = [line for line in errors.__doc__.splitlines() if "Error" in line and line[:4] == "    "]
    parents: list[str] = []
    documented = {}
    for line in tree:
        name = re.search(r"\w+Error", line)
        assert name is not None
        depth = (name.start() - 4) // 4
        parents[depth:] = [name[0]]
        documented[name[0]] = parents[depth - 1] if depth else "Exception"
    assert documented == {c.__name__: c.__bases__[0].__name__ for c in CLASSES}


@pytest.mark.parametrize(
    "error",
    [
        errors.BadRequestError("stop = '\ud800': wrong", param="\udfff", request_id="a\ud83d"),
        errors.ProtocolError("\udc00\ud800", code="\udbff"),
        ValueError("half \ud800"),
        UnicodeError("\udcff"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_quotes_half_a_surrogate_pair_can_be_sent(error: Exception) -> None:
    encoded = encode_error(raised(error), "r\ud800")
    sent = json.loads(json.dumps(encoded, ensure_ascii=False).encode())
    assert sent == encoded
    assert "\ufffd" in sent["message"]
    whole = encode_error(ValueError("\N{PARTY POPPER} ß \ufffd"))
    assert whole["message"] == "ValueError: \N{PARTY POPPER} ß \ufffd"

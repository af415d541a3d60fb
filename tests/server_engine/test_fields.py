"""What servers say of their fields, and what requests become for them."""

from __future__ import annotations

import pytest

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.api.server_urls import is_loopback, looks_like_server
from mlc_widget.server_engine.address import ServerAddress, key_variable
from mlc_widget.server_engine.events import EventReader
from mlc_widget.server_engine.fields import fields_of

CHAT = {"model": "m", "messages": []}


def described(*names, reference=True):
    """An OpenAPI description whose chat requests have these fields."""
    schema = {"type": "object", "properties": {name: {} for name in names}}
    body = {"$ref": "#/components/schemas/Chat"} if reference else {"allOf": [schema]}
    post = {"requestBody": {"content": {"application/json": {"schema": body}}}}
    return {
        "paths": {"/v1/chat/completions": {"post": post}},
        "components": {"schemas": {"Chat": schema}},
    }


def sent(given, openapi=None, owners=(), software="", extra=()):
    fields = fields_of(openapi, "/v1", owners, software, extra)
    return fields.translated("chat", {**CHAT, **given})


def test_a_description_that_refers_to_itself_is_read_in_no_time():
    schema = {"properties": {"seed": {}}}
    for _ in range(3):
        parts = [{**schema, "$ref": "#/components/schemas/Chat"} for _ in range(16)]
        schema = {"allOf": parts, "anyOf": parts, "oneOf": parts, "properties": {"top_k": {}}}
    openapi = described()
    openapi["components"]["schemas"]["Chat"] = schema
    assert sent({"top_k": 5, "seed": 1}, openapi)["top_k"] == 5


@pytest.mark.parametrize("reference", [True, False])
def test_a_described_field_is_sent_and_another_is_refused(reference):
    openapi = described("messages", "top_k", "seed", reference=reference)
    assert sent({"top_k": 5}, openapi)["top_k"] == 5
    with pytest.raises(UnsupportedFieldError) as raised:
        sent({"min_p": 0.5}, openapi)
    assert raised.value.param == "min_p"
    assert "openapi.json" in raised.value.message
    assert sent({"min_p": 0.5}, openapi, extra=["min_p"])["min_p"] == 0.5


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("n", 2), ("tools", [{}]), ("logprobs", True), ("top_p", 0.5)]
)
def test_openais_fields_are_refused_where_the_description_lacks_them(name, value):
    with pytest.raises(UnsupportedFieldError):
        sent({name: value}, described("messages"))
    assert sent({name: value})[name] == value  # without a description


@pytest.mark.parametrize(
    ("openapi", "given", "expected"),
    [
        (described("repeat_penalty"), {"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        (described("max_completion_tokens"), {"max_tokens": 3}, {"max_completion_tokens": 3}),
        (
            described("chat_template_kwargs"),
            {"enable_thinking": False},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        (described("messages"), {"user": "me", "stream_options": {"include_usage": True}}, {}),
        (described("service_tier"), {"service_tier": "flex"}, {}),
        (None, {"request_id": "x", "temperature": None}, {}),
        (
            None,
            {"response_format": {"type": "json_object", "schema": {}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "schema", "schema": {}},
                }
            },
        ),
    ],
)
def test_fields_get_the_servers_names(openapi, given, expected):
    assert sent(given, openapi) == {**CHAT, **expected}


def test_known_servers_without_a_description():
    assert sent({"top_k": 1, "repetition_penalty": 1.1}, owners=["llamacpp"]) == {
        **CHAT,
        "top_k": 1,
        "repeat_penalty": 1.1,
    }
    with pytest.raises(UnsupportedFieldError, match="Ollama"):
        sent({"logit_bias": {"5": 1}}, owners=["library"])
    with pytest.raises(UnsupportedFieldError, match="not one of OpenAI"):
        sent({"top_k": 1})
    everything = {"top_k": 1, "response_format": {"type": "regex", "regex": "a"}}
    assert sent(everything, software="mlc_widget") == {**CHAT, **everything}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": {"type": "regex", "regex": "a"}}, "response_format.type"),
        ({"response_format": {"type": "grammar", "grammar": "a"}}, "response_format.type"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
    ],
)
def test_values_of_ours_are_refused(given, param):
    with pytest.raises(UnsupportedFieldError) as raised:
        sent(given)
    assert raised.value.param == param


def test_logprobs_of_completions():
    fields = fields_of(None, "/v1", (), "", ())
    asked = {"model": "m", "prompt": "x"}
    assert fields.translated("completion", {**asked, "logprobs": 2})["logprobs"] == 2
    with pytest.raises(UnsupportedFieldError):
        fields.translated("completion", {**asked, "logprobs": True})


def _deep():
    schema = {}
    for _ in range(10_000):
        schema = {"allOf": [schema]}
    openapi = described()
    openapi["components"]["schemas"]["Chat"] = schema
    return openapi


@pytest.mark.parametrize(
    "openapi",
    [
        [],
        5,
        {"paths": []},
        {"paths": {"/v1/chat/completions": 5}},
        _deep(),
        described() | {"components": {"schemas": {"Chat": {"$ref": "#/components/schemas/Chat"}}}},
        described() | {"components": {"schemas": {"Chat": {"properties": []}}}},
    ],
)
def test_a_hostile_description_says_nothing(openapi):
    assert sent({"seed": 1}, openapi)["seed"] == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("https://api.openai.com/v1", True),
        ("HTTP://HOST", True),
        ("http://[", True),
        ("https://huggingface.co/user/repo", False),
        ("https://www.huggingface.co/user/repo", False),
        ("https://hf.co/user/repo", False),
        ("https://example.org/model.gguf", False),
        ("HF://user/repo", False),
        ("demo", False),
        (None, False),
        (["http://h"], False),
    ],
)
def test_addresses_of_servers(name, expected):
    assert looks_like_server(name) is expected


@pytest.mark.parametrize(
    ("url", "base", "root"),
    [
        ("http://h", "http://h/v1", "http://h"),
        ("http://h:80/", "http://h:80/v1", "http://h:80"),
        ("https://h/api/v1/", "https://h/api/v1", "https://h"),
        ("http://[::1]:5/v1", "http://[::1]:5/v1", "http://[::1]:5"),
    ],
)
def test_an_address_is_completed(url, base, root):
    address = ServerAddress.read(url)
    assert (address.base, address.root) == (base, root)


@pytest.mark.parametrize(
    ("url", "base_url", "sends"),
    [
        ("https://api.openai.com/v1", None, True),
        ("https://api.openai.com", None, True),
        ("http://api.openai.com/v1", None, False),
        ("https://api.openai.com.example/v1", None, False),
        ("http://127.0.0.1:8000/v1", None, False),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", True),
        ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8000/v1", False),
        ("https://api.openai.com/v1", "http://127.0.0.1:8000/v1", False),
        ("http://127.0.0.1:8000/v1", "nonsense", False),
    ],
)
def test_openais_key_goes_where_it_is_meant_to(monkeypatch, url, base_url, sends):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    variable = key_variable(ServerAddress.read(url), None)
    assert variable == ("OPENAI_API_KEY" if sends else None)


def test_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "example.org", "10.0.0.1", "")))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_in_all_pieces(size):
    text = (
        b': hi\r\ndata: {"a": 1}\r\n\r\nevent: x\nid: 5\ndata:b\ndata: c\n\n\n\ndata: d\n\ndata: e'
    )
    reader = EventReader()
    found = [e for i in range(0, len(text), size) for e in reader.feed(text[i : i + size])]
    assert found == [b'{"a": 1}', b"b\nc", b"d"]

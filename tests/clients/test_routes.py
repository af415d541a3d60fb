"""What is not served is a 404 or 405 as OpenAI says it; every answer has a request id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from mlc_widget.api.async_interface import AsyncMLCEngineInterface

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}

Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]
UNKNOWN: dict[str, Call] = {
    "files.list": lambda c: c.files.list(),  # type: ignore[misc,return-value]
    "files.create": lambda c: c.files.create(file=b"x", purpose="user_data"),
    "files.delete": lambda c: c.files.delete("x"),
    "audio.speech": lambda c: c.audio.speech.create(input="x", model="m", voice="alloy"),
    "audio.transcriptions": lambda c: c.audio.transcriptions.create(file=b"x", model="m"),
    "images": lambda c: c.images.generate(prompt="x"),
    "moderations": lambda c: c.moderations.create(input="x"),
    "batches": lambda c: c.batches.retrieve("x"),
    "fine_tuning": lambda c: c.fine_tuning.jobs.retrieve("x"),
    "vector_stores": lambda c: c.vector_stores.retrieve("x"),
    "chat.completions.retrieve": lambda c: c.chat.completions.retrieve("x"),
    "chat.completions.delete": lambda c: c.chat.completions.delete("x"),
    "chat.completions.messages": lambda c: c.chat.completions.messages.list("x"),  # type: ignore[misc,return-value]
    "a path of one's own": lambda c: c.get("/nonsense", cast_to=object),
    "no path": lambda c: c.get("/", cast_to=object),
}
WRONG: dict[str, tuple[Call, str]] = {
    "models.delete": (lambda c: c.models.delete("m"), "GET"),
    "models.delete of a path": (lambda c: c.models.delete("HF://user/m"), "GET"),
    "chat.completions.list": (lambda c: c.chat.completions.list(), "POST"),  # type: ignore[misc,return-value]
    "PUT of chat completions": (lambda c: c.put("/chat/completions", cast_to=object), "POST"),
    "GET of embeddings": (lambda c: c.get("/embeddings", cast_to=object), "POST"),
    "POST of models": (lambda c: c.post("/models", cast_to=object), "GET"),
    "PATCH of completions": (lambda c: c.patch("/completions", cast_to=object), "POST"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_unknown_routes_are_404(scripted: AsyncMLCEngineInterface, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match="Invalid URL") as caught:
        await UNKNOWN[name](scripted.openai_client())
    check_shape(caught.value, "unknown_url")


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_methods_are_405(scripted: AsyncMLCEngineInterface, name: str) -> None:
    call, allowed = WRONG[name]
    with pytest.raises(openai.APIStatusError, match="Not allowed to") as caught:
        await call(scripted.openai_client())
    assert caught.value.status_code == 405
    assert caught.value.response.headers["allow"] == allowed
    check_shape(caught.value, "method_not_supported")


def check_shape(error: openai.APIStatusError, code: str) -> None:
    assert error.code == code
    assert error.type == "invalid_request_error"
    body = error.response.json()["error"]
    assert sorted(body) == ["code", "message", "param", "type"]
    assert error.request_id
    assert error.request_id.startswith("req_")


async def test_every_answer_has_its_own_request_id(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    blocking = scripted.openai_client(sync=True)
    whole = await client.chat.completions.create(**REQUEST)
    models = await client.models.list()
    raw = await client.chat.completions.with_raw_response.create(**REQUEST, stream=True)
    held = await asyncio.to_thread(lambda: blocking.completions.create(model="m", prompt="x"))
    ids = [whole._request_id, models._request_id, raw.headers["x-request-id"], held._request_id]
    for fields in ({"temperature": 5}, {"model": "nobody"}):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**{**REQUEST, **fields})
        ids.append(caught.value.request_id)
    prefixes = ("chatcmpl-", "req_", "chatcmpl-", "cmpl-", "req_", "chatcmpl-")
    assert all(i and i.startswith(prefix) for i, prefix in zip(ids, prefixes, strict=True))
    assert len(set(ids)) == len(ids)
    assert (whole._request_id, held._request_id) == (whole.id, held.id)
    async for chunk in raw.parse():
        assert chunk.id == raw.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "header"), [("my-id", "my-id"), ("a b%ä\n", "a%20b%25%C3%A4%0A")]
)
async def test_an_id_of_the_callers_own_is_the_header(
    scripted: AsyncMLCEngineInterface, given: str, header: str
) -> None:
    client = scripted.openai_client()
    answer = await client.chat.completions.create(**REQUEST, extra_body={"request_id": given})
    assert answer.id == given
    assert answer._request_id == header


async def test_models_are_found_by_any_name(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client()
    assert (await client.models.retrieve("m")).id == "m"
    assert [model.id async for model in client.models.list()] == ["m"]
    for name in ("HF://user/repo", "/a/folder", "ä b", "m/", "m?x=1"):
        with pytest.raises(openai.NotFoundError, match="is not loaded") as caught:
            await client.models.retrieve(name)
        assert caught.value.code == "model_not_loaded"

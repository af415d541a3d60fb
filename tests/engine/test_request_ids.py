"""Errors say which request they are about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mlc_widget import AsyncMLCEngine
from mlc_widget.api.errors import InternalEngineError, MLCEngineError
from mlc_widget.api.request_ids import of_request

HELLO = [{"role": "user", "content": "Hello!"}]
Make = Callable[..., Awaitable[AsyncMLCEngine]]


async def test_errors_of_requests_have_their_ids(direct_engine: Make) -> None:
    engine = await direct_engine(text="one two three", fail_after=2)
    create: Any = engine.chat.completions.create
    with pytest.raises(InternalEngineError) as caught:
        await create(messages=HELLO, request_id="whole")
    assert caught.value.request_id == "whole"
    stream = await create(messages=HELLO, stream=True, request_id="streamed")
    with pytest.raises(InternalEngineError) as caught:
        async for _ in stream:
            pass
    assert caught.value.request_id == "streamed"
    for work, name in (
        (create(messages=HELLO, model="nobody", request_id="no model"), "no model"),
        (create(messages=[{"role": "user", "content": "x " * 5000}], request_id="long"), "long"),
        (engine.embeddings.create(input="x", request_id="vector"), "vector"),
        (engine.completions.create(prompt="x", request_id="text"), "text"),
    ):
        with pytest.raises(MLCEngineError) as refused:
            await work
        assert refused.value.request_id == name
    with pytest.raises(MLCEngineError) as drawn:
        await create(messages=HELLO)
    assert (drawn.value.request_id or "").startswith("chatcmpl-")


def test_an_error_of_several_requests_is_each_ones_own() -> None:
    shared = InternalEngineError("The model failed.")
    first, second = of_request(shared, "a"), of_request(shared, "b")
    assert isinstance(first, InternalEngineError)
    assert isinstance(second, InternalEngineError)
    assert (first.request_id, second.request_id) == ("a", "b")
    assert of_request(first, "a") is first
    other = ValueError("not ours")
    assert of_request(other, "a") is other

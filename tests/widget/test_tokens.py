"""Replies with the probabilities of their tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mlc_widget.api.engine_link import EngineSnapshot
from mlc_widget.api.errors import BadRequestError
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.options import checked_options, options_json
from mlc_widget.widget.session import ChatSession
from mlc_widget.widget.tokens import tokens_json


def entry(token: str, probability: float, **others: float) -> dict[str, Any]:
    top = [{"token": name, "logprob": math.log(p)} for name, p in others.items()]
    return {"token": token, "logprob": math.log(probability), "bytes": [], "top_logprobs": top}


class Link:
    """An engine's link whose streams give two tokens, with what was asked for."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.snapshot = EngineSnapshot("ready", ("m",))

    def call_soon(self, function: Any, *args: Any) -> None:
        asyncio.get_running_loop().call_soon(function, *args)

    def observe(self, _callback: Any) -> Any:
        return lambda: None

    async def list_models(self) -> list[dict[str, Any]]:
        return [{"default_sampling_params": {"max_tokens": 9}}]

    async def open_stream(self, _kind: str, request: dict[str, Any]) -> AsyncIterator[Any]:
        self.requests.append(request)
        return self._stream(request.get("logprobs", False))

    async def _stream(self, logprobs: bool) -> AsyncIterator[Any]:
        for token in (entry("Par", 0.9, Par=0.9, Lon=0.05), entry("is", 1.0)):
            found = {"content": [token]} if logprobs else None
            yield [{"choices": [{"delta": {"content": token["token"]}, "logprobs": found}]}]


def ask(options: ChatOptions) -> tuple[Link, Any]:
    async def play() -> tuple[Link, Any]:
        link = Link()
        nothing = ChatListener(lambda: None, lambda _: None, lambda: None)
        session = ChatSession(link, nothing, options)  # type: ignore[arg-type]
        session.start()
        reply = session.send("Where?")
        await reply
        return link, session.state.path()[-1], reply

    link, message, reply = asyncio.run(play())
    assert reply.logprobs == message.tokens
    return link, message


def test_they_are_asked_for_and_kept_only_if_they_are_wanted() -> None:
    link, message = ask(checked_options(logprobs=True))
    assert (link.requests[0]["logprobs"], link.requests[0]["top_logprobs"]) == (True, 5)
    assert message.to_json()["tokens"] == 2
    assert tokens_json(message.tokens) == [
        ["Par", 0.9, [["Par", 0.9], ["Lon", 0.05]]],
        ["is", 1.0, []],
    ]
    for off in (None, False):
        link, message = ask(checked_options(logprobs=off))
        assert "logprobs" not in link.requests[0]
        assert message.to_json()["tokens"] == 0


def test_the_setting_is_a_boolean() -> None:
    assert options_json(checked_options(logprobs=True))["logprobs"] is True
    for bad in (3, "yes", [True]):
        with pytest.raises(BadRequestError, match="logprobs"):
            checked_options(logprobs=bad)


def test_what_the_page_gets_is_bounded_and_never_above_one() -> None:
    many = tokens_json(entry("x", 0.5) for _ in range(10_000))
    assert len(many) == 8192
    assert tokens_json([{"token": "x", "logprob": 0.01}, {"token": "y", "logprob": -math.inf}]) == [
        ["x", 1.0, []],
        ["y", 0.0, []],
    ]

"""What is sent of a reply while it grows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.session import ChatSession

# It repeats itself, and then it does not.
PART = "round and round " * 30 + " ".join(f"sentence {i} says {i * i}" for i in range(60))


class Link:
    """An engine that answers with `PART`, so many times."""

    snapshot = EngineSnapshot("ready", ("m",))

    def __init__(self, times: int) -> None:
        self.times = times

    def observe(self, _observer: object) -> Any:
        return lambda: None

    async def open_stream(self, _kind: str, _request: object) -> Any:
        async def batches() -> AsyncGenerator[list[dict[str, Any]], None]:
            for word in (PART * self.times).split(" "):
                yield [{"choices": [{"delta": {"content": word + " "}}]}]

        return batches()


async def sent(times: int) -> tuple[int, set[bool]]:
    """The characters that are sent to the page of a reply, and what they say of repetitions."""
    count = 0
    repeats: set[bool] = set()

    def send(content: object) -> None:
        nonlocal count
        count += len(json.dumps(content))

    def on_change() -> None:
        send(session.state.to_json())
        send(session.live)

    def on_delta(delta: dict[str, Any]) -> None:
        repeats.add(delta["repeats"])
        send(delta["text"])

    listener = ChatListener(on_change, on_delta, lambda: send(session.live))
    link = cast("EngineLink", Link(times))
    session = ChatSession(link, listener, ChatOptions(max_tokens=10**6))
    session.start()
    reply = session.send("Go on")
    await asyncio.wait_for(reply, 120)
    assert len(reply.text) > len(PART) * times - 2
    session.close()
    return count, repeats


async def test_what_is_sent_of_a_reply_grows_as_its_text_does() -> None:
    short, _ = await sent(4)
    long, repeats = await sent(32)
    assert long < 8 * short * 1.3
    assert repeats  # each delta says it, so that the whole need not be sent when it changes

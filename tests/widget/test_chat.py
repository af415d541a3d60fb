"""`ChatWidget` from Python, on a real worker that follows a script."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    EngineTerminatedError,
    InternalEngineError,
    ModelNotLoadedError,
)
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget, Reply

MakeEngine = Callable[..., KernelMLCEngine]
DEADLINE = 30.0


class Page:
    """A chat with a record of what it sent to the page."""

    def __init__(self, engine: object, **options: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self._came = threading.Condition()
        page = self

        class Recorded(ChatWidget):
            def _send(self, msg: Any, buffers: Any = None) -> None:
                page._record(msg)

        self.chat = Recorded(engine, **options)

    def _record(self, msg: dict[str, Any]) -> None:
        with self._came:
            self.sent.append(msg)
            self._came.notify_all()

    def wait_for(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def first() -> dict[str, Any] | None:
            return next((msg for msg in self.sent if matches(msg)), None)

        with self._came:
            assert self._came.wait_for(lambda: first() is not None, DEADLINE), self.sent
            found = first()
            assert found is not None
            return found

    def customs(self, kind: str) -> list[dict[str, Any]]:
        contents = [msg["content"] for msg in list(self.sent) if msg["method"] == "custom"]
        return [content for content in contents if content["type"] == kind]

    def intent(self, intent_id: str, kind: str, **fields: Any) -> None:
        """What the page sends, as it arrives on the widget's comm."""
        content = {"type": "intent", "id": intent_id, "intent": {"kind": kind, **fields}}
        self.chat._handle_custom_msg(content, [])

    def wait_for_ack(self, intent_id: str) -> dict[str, Any]:
        msg = self.wait_for(lambda msg: msg.get("content", {}).get("intent") == intent_id)
        content: dict[str, Any] = msg["content"]
        return content


@pytest.fixture
def open_page() -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def open_(engine: object, **options: Any) -> Page:
        pages.append(Page(engine, **options))
        return pages[-1]

    yield open_
    for page in pages:
        page.chat.close()


OpenPage = Callable[..., Page]


def test_send_returns_at_once_and_the_reply_follows(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    endless = open_page(make_engine(text="word", repeat=10**6, pace_s=0.01)).chat
    reply = endless.send("Go on")
    assert not reply.done()
    endless.stop()
    page = open_page(make_engine(text="one two three", pace_s=0.2))
    reply = page.chat.send("Count")
    assert page.chat.messages[0] == {"role": "user", "content": "Count"}
    assert reply.result(DEADLINE) == {"role": "assistant", "content": "one two three"}
    assert reply.done()
    assert reply.status == "done"
    assert page.chat.messages == (
        {"role": "user", "content": "Count"},
        {"role": "assistant", "content": "one two three"},
    )
    stats = reply.stats
    assert stats is not None
    assert stats["completion_tokens"] == 3
    assert stats["ttft_s"] is not None


async def test_a_reply_is_awaited_and_the_loop_stays_free(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="one two three", pace_s=0.2))
    reply = page.chat.send("Count")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    assert (await reply)["content"] == "one two three"
    ticker.cancel()
    assert ticks > 10


async def test_interrupting_the_await_stops_that_reply(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="word", repeat=10_000, pace_s=0.01))
    reply = page.chat.send("Go on")
    waiting = asyncio.ensure_future(_await(reply))
    await asyncio.to_thread(
        page.wait_for, lambda msg: msg.get("content", {}).get("type") == "delta"
    )
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "word" in (await asyncio.to_thread(reply.result, DEADLINE))["content"]
    assert reply.status == "stopped"


async def _await(reply: Reply) -> dict[str, Any]:
    return await reply


def test_deltas_carry_the_text_in_utf16_offsets(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    text = "🦙 grüßt 👩‍👩‍👧 und 日本 𝕏!"
    page = open_page(make_engine(text=text, repeat=40, pace_s=0.004))
    whole = page.chat.send("Hi").result(DEADLINE)["content"]
    built = b""
    for delta in page.customs("delta"):
        assert delta["offset"] * 2 == len(built)
        built += delta["text"].encode("utf-16-le")
    assert built.decode("utf-16-le") == whole == " ".join([text] * 40)


def test_deltas_come_at_most_at_thirty_per_second(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="w", repeat=600, pace_s=0.002))
    begun = time.monotonic()
    page.chat.send("Hi").result(DEADLINE)
    took = time.monotonic() - begun
    assert len(page.customs("delta")) <= 30 * took + 3


def test_messages_are_answered_in_order_with_their_history(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(echo=True, pace_s=0.01), system="Be brief")
    first, second = page.chat.send("one"), page.chat.send("two")
    assert second.status == "queued"
    one, two = (reply.result(DEADLINE)["content"] for reply in (first, second))
    assert "Be brief" in one
    assert "U:one" in one
    assert "two" not in one
    assert one.strip() in two
    assert "U:two" in two
    assert [m["role"] for m in page.chat.messages] == ["user", "assistant"] * 2


def test_stop_ends_the_running_reply_and_those_that_wait(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="word", repeat=10_000, pace_s=0.01))
    first, second = page.chat.send("one"), page.chat.send("two")
    page.wait_for(lambda msg: msg.get("content", {}).get("type") == "delta")
    page.chat.stop()
    assert "word" in first.result(DEADLINE)["content"]
    assert second.result(DEADLINE)["content"] == ""
    assert (first.status, second.status) == ("stopped", "stopped")


def test_a_reply_stopped_before_it_began_ends_too(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    chat = open_page(make_engine(text="word", repeat=10_000, pace_s=0.01)).chat

    async def send_and_stop() -> Reply:
        reply = chat._session.send("one")
        chat._session.stop()
        return reply

    reply = chat._link.submit(send_and_stop()).result(DEADLINE)
    assert reply.result(DEADLINE)["content"] == ""
    assert chat.send("two").status in ("queued", "running")
    chat.stop()


def test_an_error_is_raised_shown_and_can_be_retried(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="one two three", fail_after=2, pace_s=0.05))
    reply = page.chat.send("Count")
    with pytest.raises(InternalEngineError, match="fails after 2"):
        reply.result(DEADLINE)
    shown = page.chat.get_state("_chat")["_chat"]["messages"]
    assert [m["status"] for m in shown] == ["done", "error"]
    assert shown[1]["text"].startswith("one")
    assert "fails after 2" in shown[1]["error"]["message"]
    page.intent("again", "retry", reply=reply.id)
    assert page.wait_for_ack("again")["error"] is None
    shown = page.chat.get_state("_chat")["_chat"]["messages"]
    assert len(shown) == 2
    assert shown[1]["id"] != reply.id


def test_intents_are_taken_once_and_acknowledged_each_time(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="Hello"))
    for _ in range(3):
        page.intent("a", "send", text="Hi")
    page.intent("b", "resync")
    page.wait_for_ack("b")
    assert [ack["intent"] for ack in page.customs("ack")] == ["a", "a", "a", "b"]
    assert [m["content"] for m in page.chat.messages if m["role"] == "user"] == ["Hi"]


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("send", {"text": "  "}, "write a message"),
        ("send", {"text": 4}, "write a message"),
        ("retry", {"reply": "nobody"}, "no such message"),
        ("format_disk", {}, "does not know this intent"),
    ],
)
def test_wrong_intents_are_refused_with_the_reason(
    make_engine: MakeEngine,
    open_page: OpenPage,
    kind: str,
    fields: dict[str, Any],
    reason: str,
) -> None:
    page = open_page(make_engine(text="Hello"))
    page.intent("a", kind, **fields)
    assert reason in page.wait_for_ack("a")["error"]
    assert page.chat.messages == ()


@pytest.mark.parametrize(
    "content", [None, "stop", {}, {"type": "intent"}, {"type": "intent", "id": "x" * 99}]
)
def test_rubbish_from_the_page_is_ignored(
    make_engine: MakeEngine, open_page: OpenPage, content: Any
) -> None:
    page = open_page(make_engine(text="Hello"))
    page.chat._handle_custom_msg(content, [])
    page.intent("b", "resync")
    page.wait_for_ack("b")
    assert len(page.customs("ack")) == 1


def test_a_reply_whose_worker_dies_goes_on_and_says_so(
    model_folder: Path, open_page: OpenPage
) -> None:
    with KernelMLCEngine(
        runtime="scripted", runtime_options={"text": "word ", "repeat": 20_000, "pace_s": 0.01}
    ) as engine:
        engine.reload(str(model_folder))
        page = open_page(engine)
        reply = page.chat.send("Go on")
        page.wait_for(lambda msg: msg.get("content", {}).get("type") == "delta")
        assert engine.worker_pid is not None
        os.kill(engine.worker_pid, signal.SIGKILL)
        page.wait_for(
            lambda msg: any(
                message["resumed"] is True
                for message in msg.get("state", {}).get("_chat", {}).get("messages", ())
            )
        )
        assert reply.status == "running"
        page.chat.stop()
        assert set(reply.result(DEADLINE)["content"].split()) == {"word"}


def test_a_message_waits_for_the_model_that_loads(
    model_folder: Path, make_engine: MakeEngine, open_page: OpenPage, tmp_path: Path
) -> None:
    may_load = tmp_path / "may load"
    engine = make_engine(load=False, text="Here", load_waits_for=str(may_load))
    page = open_page(engine)
    loading = threading.Thread(target=engine.reload, args=(str(model_folder),))
    loading.start()
    page.wait_for(lambda msg: msg.get("state", {}).get("_engine", {}).get("state") == "loading")
    reply = page.chat.send("Hi")
    assert reply.status == "queued"
    may_load.touch()
    assert reply.result(DEADLINE)["content"] == "Here"
    loading.join(DEADLINE)


def test_without_a_model_the_reply_says_so(make_engine: MakeEngine, open_page: OpenPage) -> None:
    page = open_page(make_engine(load=False, text="never loaded"))
    with pytest.raises(ModelNotLoadedError):
        page.chat.send("Hi").result(DEADLINE)


def test_empty_messages_and_terminated_engines_are_errors(open_page: OpenPage) -> None:
    engine = KernelMLCEngine(runtime="scripted")
    chat = open_page(engine).chat
    with pytest.raises(BadRequestError, match="write a message"):
        chat.send("   ")
    engine.terminate()
    with pytest.raises(EngineTerminatedError):
        chat.send("Hi")


def test_only_engines_in_a_worker_are_shown() -> None:
    with pytest.raises(TypeError, match="create_kernel_mlc_engine"):
        ChatWidget(object())

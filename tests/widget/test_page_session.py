"""Messages to the page of a web framework's session, sent from the engine's thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.page_session import current_page_session, why_no_page

MakeEngine = Callable[..., KernelMLCEngine]
current: contextvars.ContextVar[Any] = contextvars.ContextVar("session", default=None)


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shiny's parts that are used; the sessions that were current at each flush."""
    found: list[str] = []
    guard = asyncio.Lock()

    @contextlib.contextmanager
    def session_context(session: Any) -> Iterator[None]:
        token = current.set(session)
        yield
        current.reset(token)

    async def flush() -> None:
        assert guard.locked()
        found.append("flush")

    package, session = ModuleType("shiny"), ModuleType("shiny.session")
    package.reactive = SimpleNamespace(lock=lambda: guard, flush=flush)  # type: ignore[attr-defined]
    session.session_context = session_context  # type: ignore[attr-defined]
    session.get_current_session = current.get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shiny", package)
    monkeypatch.setitem(sys.modules, "shiny.session", session)
    return found


def on_another_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_what_another_thread_sends_goes_to_the_session_and_is_flushed(
    flushes: list[str],
) -> None:
    sent: list[tuple[Any, int, int]] = []
    pages = {}
    for name in ("one", "two"):
        token = current.set(name)
        pages[name] = current_page_session()
        current.reset(token)
    home = threading.get_ident()

    def send(number: int) -> None:
        sent.append((current.get(), number, threading.get_ident()))

    def work() -> None:
        for number in range(50):
            for page in pages.values():
                page.run(lambda number=number: send(number))

    on_another_thread(work)
    while len(sent) < 100 or len(flushes) < 2:
        await asyncio.sleep(0)
    for name in pages:
        assert [number for session, number, _ in sent if session == name] == list(range(50))
    assert {thread for _, _, thread in sent} == {home}
    assert len(flushes) < 100  # what waits is sent together


async def test_a_session_that_has_ended_harms_nothing(flushes: list[str]) -> None:
    token = current.set("ended")
    page = current_page_session()
    current.reset(token)
    sent: list[int] = []

    def fail() -> None:
        raise RuntimeError("closed")

    page.run(fail)
    page.run(lambda: sent.append(1))
    await asyncio.sleep(0.01)
    page.run(lambda: sent.append(2))
    while 2 not in sent:
        await asyncio.sleep(0)


def test_elsewhere_messages_are_sent_at_once(flushes: list[str]) -> None:
    sent: list[int] = []
    current_page_session().run(lambda: sent.append(1))
    assert sent == [1]
    token = current.set("no loop runs here")
    current_page_session().run(lambda: sent.append(2))
    current.reset(token)
    assert sent == [1, 2]
    assert flushes == []


def test_streamlit_is_told_what_to_use(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatWidget(make_engine())
    assert repr(chat).startswith("<ChatWidget ")
    streamlit = ModuleType("streamlit")
    streamlit.runtime = SimpleNamespace(exists=lambda: True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streamlit", streamlit)
    assert "st.write_stream" in repr(chat)
    streamlit.runtime = SimpleNamespace(exists=lambda: False)  # type: ignore[attr-defined]
    assert why_no_page() is None
    chat.close()

"""The chat in pages that do what VS Code and Colab do: themes, messages, Stop, what is left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from playwright.sync_api import Browser, expect

from .colours import expect_legible
from .contract import COLAB_THEMES, VSCODE_THEMES, ColabPage, ContractPage, MarimoPage, VSCodePage
from .page import STATS, reply, user

AnyPage = TypeVar("AnyPage", bound=ContractPage)
LINK = "See [this](https://a.test/b)."
CODE = "Try this:\n\n```python\nx = 1\n```\n"


@contextmanager
def without_faults(page: AnyPage) -> Iterator[AnyPage]:
    """The page, closed in the end; it must have thrown nothing and asked nobody for anything."""
    try:
        yield page
    finally:
        page.close()
    assert page.faults == []


def test_the_themes_of_vs_code(browser: Browser) -> None:
    with without_faults(VSCodePage(browser)) as page:
        chat = page.show(user("Hi"), reply(LINK))
        for theme, bridge in itertools.product(VSCODE_THEMES, (False, True)):
            page.set_theme(theme, bridge=bridge)
            dark = theme in ("vscode-dark", "vscode-high-contrast")
            colours = expect_legible(chat, dark=dark)
            assert colours["font"] == "sans-serif"
            assert colours["around"] == "rgba(0, 0, 0, 0)"  # not the white of VS Code


def test_the_themes_of_colab(browser: Browser) -> None:
    with without_faults(ColabPage(browser)) as page:
        chat = page.show(user("Hi"), reply(LINK))
        for theme, dark_system in itertools.product(COLAB_THEMES, (False, True)):
            page.page.emulate_media(color_scheme="dark" if dark_system else "light")
            page.set_theme(theme)
            expect_legible(chat, dark=theme == "dark" or (theme == "adaptive" and dark_system))


def test_the_themes_of_marimo(browser: Browser) -> None:
    with without_faults(MarimoPage(browser)) as page:
        chat = page.show(user("Hi"), reply(LINK))
        for theme in ("light", "dark"):
            page.set_theme(theme)
            colours = expect_legible(chat, dark=theme == "dark")
            assert colours["font"] == '"PT Sans", sans-serif'


@pytest.mark.parametrize("host", [VSCodePage, ColabPage])
def test_a_conversation(browser: Browser, host: type[ContractPage]) -> None:
    """It streams and stops by messages alone, and offers nothing that the host cannot do."""
    with without_faults(host(browser, viewport={"width": 320, "height": 700})) as page:
        chat = page.show()
        chat.get_by_role("textbox", name="Message").fill("Hi")
        chat.get_by_role("button", name="Send").click()
        page.wait_for_intent("send")
        page.change(_chat={"rev": 2, "messages": [user("Hi"), reply("", "running")]})
        log, words = chat.get_by_role("log"), CODE.split(" ")
        at = 0
        for word in words:
            page.receive({"type": "delta", "reply": "a", "offset": at, "text": f"{word} "})
            at += len(word) + 1
            expect(log).to_contain_text(word.split("\n")[0])
        chat.get_by_role("button", name="Stop").click()
        page.wait_for_intent("stop")
        stopped = reply(CODE, "stopped", stats=STATS)
        page.change(_chat={"rev": 3, "messages": [user("Hi"), stopped]})
        expect(chat.get_by_role("button", name="Stop")).to_be_hidden()
        expect(chat.get_by_role("button", name="Copy", exact=True)).to_be_visible()
        for name in ("Insert", "Replace", "Run", "Full window"):
            expect(chat.get_by_role("button", name=name, exact=True)).to_be_hidden()
        wide = chat.evaluate("node => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0


def test_two_chats_in_colab_share_no_page(browser: Browser) -> None:
    with without_faults(ColabPage(browser)) as page:
        long = "\n\n".join(f"Paragraph {n}." for n in range(80))
        first = page.show(user("Hi"), reply(long), comm_id="one")
        second = page.show(user("Hi"), reply("No"), comm_id="two")
        page.change("two", _chat={"rev": 2, "messages": [user("Hi"), reply("Yes")]})
        expect(second.get_by_role("log")).to_contain_text("Yes")
        # A frame is as high as its content, and so no measure of how high a chat may be.
        page.page.wait_for_function("document.querySelector('iframe').offsetHeight > 400")
        assert first.evaluate("node => document.body.scrollHeight < screen.availHeight")

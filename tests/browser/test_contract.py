"""The chat in pages that do what VS Code and Colab do: themes, messages, Stop, what is left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Locator, expect

from .contract import COLAB_THEMES, VSCODE_THEMES, ColabPage, ContractPage, VSCodePage
from .page import STATS, reply, user

AnyPage = TypeVar("AnyPage", bound=ContractPage)
LINK = "See [this](https://a.test/b)."
CODE = "Try this:\n\n```python\nx = 1\n```\n"

# The colours of what is drawn, through a canvas, as `color-mix` is computed in other notations.
COLOURS = """(root) => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const luminance = (colour, below = [0, 0, 0]) => {
        canvas.fillStyle = `rgb(${below.join(" ")})`;
        canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const rgb = [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        const linear = rgb.map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return {rgb, light: linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722};
    };
    const ratio = (one, other) =>
        (Math.max(one.light, other.light) + 0.05) / (Math.min(one.light, other.light) + 0.05);
    const of = (selector) => getComputedStyle(root.querySelector(selector) ?? root);
    const chat = luminance(of(".mlcw-chat").backgroundColor);
    const bubble = luminance(of(".mlcw-user .mlcw-body").backgroundColor, chat.rgb);
    const text = (selector, below) => ratio(luminance(of(selector).color, below.rgb), below);
    return {
        chat: chat.rgb,
        page: luminance(getComputedStyle(document.documentElement).backgroundColor).rgb,
        around: getComputedStyle(root.parentElement).backgroundColor,
        bubble: ratio(bubble, chat),
        question: text(".mlcw-user .mlcw-body", bubble),
        reply: text(".mlcw-assistant .mlcw-body", chat),
        facts: text(".mlcw-state", chat),
        link: text(".mlcw-assistant a", chat),
        scheme: of(".mlcw-chat").colorScheme,
        font: of(".mlcw-assistant .mlcw-body").fontFamily,
    };
}"""


@contextmanager
def without_faults(page: AnyPage) -> Iterator[AnyPage]:
    """The page, closed in the end; it must have thrown nothing and asked nobody for anything."""
    try:
        yield page
    finally:
        page.close()
    assert page.faults == []


def expect_legible(chat: Locator, *, dark: bool) -> dict[str, Any]:
    """What is drawn is in the host's colours, and can be told apart and read."""
    colours: dict[str, Any] = chat.evaluate(COLOURS)
    assert colours["chat"] == colours["page"]
    assert colours["bubble"] > 1.1
    assert (colours["scheme"] == "dark") == dark
    assert min(colours[name] for name in ("question", "reply", "facts", "link")) >= 4.5, colours
    return colours


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

"""What a chat's colours are in a page, and whether they can be read."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator

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
    const page = [document.body, document.documentElement]
        .map((node) => getComputedStyle(node).backgroundColor)
        .find((colour) => colour !== "rgba(0, 0, 0, 0)");
    const bubble = luminance(of(".mlcw-user .mlcw-body").backgroundColor, chat.rgb);
    const text = (selector, below) => ratio(luminance(of(selector).color, below.rgb), below);
    return {
        chat: chat.rgb,
        page: luminance(page).rgb,
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


def expect_legible(chat: Locator, *, dark: bool) -> dict[str, Any]:
    """What is drawn is in the host's colours, and can be told apart and read."""
    colours: dict[str, Any] = chat.evaluate(COLOURS)
    assert colours["chat"] == colours["page"]
    assert colours["bubble"] > 1.1
    assert (colours["scheme"] == "dark") == dark
    assert min(colours[name] for name in ("question", "reply", "facts", "link")) >= 4.5, colours
    return colours

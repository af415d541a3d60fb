"""The chat in what is visible of the host's page, and in the host's colours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, ViewportSize, expect

from mlc_widget.widget.bundle import loader as loader_source

from .page import WidgetPage, reply, user

LONG = "\n\n".join(f"Paragraph {n} of a long reply." for n in range(60))

# As in JupyterLab: outputs have `overflow: auto` and grow; only the notebook's panel scrolls.
PANEL = """height => {
    const main = document.getElementById("main");
    document.body.style.margin = "0";
    const panel = document.createElement("div"), output = document.createElement("div");
    panel.id = "panel";
    panel.style.cssText = `height: ${height}px; overflow-y: auto`;
    output.style.cssText = "overflow-x: auto";
    const space = (pixels) => {
        const node = document.createElement("div");
        node.style.height = `${pixels}px`;
        return node;
    };
    main.replaceWith(panel);
    output.append(main);
    panel.append(space(200), output, space(900));
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[WidgetPage]:
    """A page whose notebook is 560 pixels high."""
    page = WidgetPage(browser, viewport=ViewportSize(width=800, height=600))
    page.page.evaluate(PANEL, 560)
    yield page
    page.close()
    assert page.faults == []


def show_reply(page: WidgetPage, text: str, status: str = "running") -> None:
    messages = [user("Go on"), reply(text, status)]
    page.change(_chat={"rev": len(text) + 2, "messages": messages})


def in_view(page: WidgetPage, what: Locator) -> bool:
    box = what.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 561


def test_a_composer_in_view_stays_there_while_a_reply_grows(page: WidgetPage) -> None:
    chat = page.show(user("Go on"), reply("", "running"))
    composer, stop = chat.locator(".mlcw-composer"), chat.get_by_role("button", name="Stop")
    assert in_view(page, composer)
    for end in range(0, len(LONG), 150):
        show_reply(page, LONG[:end])
        assert in_view(page, composer), end
        assert in_view(page, stop), end
    show_reply(page, LONG, "done")
    assert in_view(page, composer)
    assert in_view(page, chat.locator(".mlcw-head"))


def test_a_reader_who_looks_elsewhere_is_left_there(page: WidgetPage) -> None:
    page.show(user("Go on"), reply("", "running"))
    below = page.page.locator("#panel > div").last  # what stands below the chat
    page.page.evaluate("document.getElementById('panel').scrollTop = 700")
    page.frame()
    before = below.bounding_box()
    for end in (500, 1000, len(LONG)):
        show_reply(page, LONG[:end])
    after = below.bounding_box()
    assert before is not None
    assert after is not None
    assert after["y"] == pytest.approx(before["y"], abs=1)


def test_header_and_composer_fit_together(page: WidgetPage) -> None:
    for height in (240, 400, 700, 1200):
        page.page.set_viewport_size(ViewportSize(width=640, height=height + 40))
        page.page.evaluate(
            "height => { document.getElementById('panel').style.height = `${height}px`; }", height
        )
        page.page.evaluate("document.getElementById('main').replaceChildren()")
        chat = page.show(user("Go on"), reply(LONG))
        box = chat.bounding_box()
        assert box is not None
        assert box["height"] <= height


def test_the_wheel_goes_on_to_the_notebook_at_the_end_of_the_chat(page: WidgetPage) -> None:
    chat = page.show(user("Go on"), reply(LONG))
    chat.locator(".mlcw-log").hover()
    before = page.page.evaluate("document.getElementById('panel').scrollTop")
    page.page.mouse.wheel(0, 300)
    page.page.wait_for_function(f"document.getElementById('panel').scrollTop > {before}")


BACKGROUND = "node => getComputedStyle(node).backgroundColor"
DARK, LIGHT = "rgb(30, 30, 30)", "rgb(255, 255, 255)"


THEMES = [
    (True, "document.body.style.colorScheme = 'light'", LIGHT),
    (False, "document.body.style.colorScheme = 'dark'", DARK),
    (True, "document.body.style.colorScheme = 'normal'", LIGHT),
    (False, "document.body.className = 'vscode-dark'", DARK),
    (True, "document.body.className = 'vscode-light'", LIGHT),
    (True, "document.body.className = 'vscode-high-contrast vscode-high-contrast-light'", LIGHT),
    (False, "document.documentElement.setAttribute('theme', 'dark')", DARK),
    (True, "document.body.dataset.jpThemeLight = 'true'", LIGHT),
]
"""Whether the system's colours are dark, what a host's page says, and the chat's background."""


def test_the_theme_is_the_host_s(page: WidgetPage) -> None:
    for system_dark, host, background in THEMES:
        page.page.emulate_media(color_scheme="dark" if system_dark else "light")
        page.page.evaluate(
            """for (const node of [document.documentElement, document.body])
                for (const name of ["class", "style", "theme", "data-jp-theme-light"])
                    node.removeAttribute(name);
            document.getElementById("main").replaceChildren();"""
        )
        page.page.evaluate(host)
        assert page.show(user("Hi")).evaluate(BACKGROUND) == background, host


def test_lists_of_tasks_and_code_without_a_language(browser: Browser) -> None:
    page = WidgetPage(browser)
    chat = page.show(user("Hi"), reply("- [x] done\n- [ ] open\n- plain\n\n```\ncode\n```"))
    styles = chat.locator("li").evaluate_all(
        "items => items.map((item) => getComputedStyle(item).listStyleType)"
    )
    assert styles[-3:] == ["none", "none", "disc"]
    code, copy = chat.locator(".mlcw-code"), chat.get_by_title("Copy code")
    expect(copy).to_be_visible()
    height = code.bounding_box()
    assert height is not None
    assert height["height"] < 48  # there is no empty line above the code
    page.close()


IN_SHADOW = """async ([id, before]) => {
    const code = "export default { initialize() {}, render({ el }) { el.append('drawn'); } }";
    const bundle = { get: (name) => name === "css" ? "div { color: rgb(1, 2, 3) }" : code };
    const manager = { get_model: () => Promise.resolve(bundle) };
    const model = { get: () => `IPY_MODEL_${id}`, widget_manager: manager };
    const loader = (await import("/loader.js")).default;
    const host = document.body.appendChild(document.createElement("p"));
    const root = host.attachShadow({mode: "open"});
    const el = document.createElement("div");
    if (before) root.append(el);
    for (let view = 0; view < 2; view++) await loader.render({ model, el });
    root.append(el);
    while (getComputedStyle(el).color !== "rgb(1, 2, 3)") await window.frame();
    return [el.textContent, root.querySelectorAll("style").length];
}"""


def test_a_widget_in_a_shadow_root_has_its_style_there(page: WidgetPage) -> None:
    """As in marimo, whichever comes first: drawing it, or putting it into the page."""
    loader = loader_source()
    page.page.route(
        "**/loader.js",
        lambda route: route.fulfill(body=loader, content_type="text/javascript"),
    )
    for before in (False, True):
        drawn = page.page.evaluate(IN_SHADOW, [f"shadow-{before}", before])
        assert drawn == ["drawndrawn", 1], before

"""The bundle in Chromium without a kernel: hostile text, stable nodes, accessibility, layout."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, expect

from ..kinds import but_for_soak
from .page import ENGINE, STATS, WidgetPage, reply, user

OpenPage = Callable[..., WidgetPage]
JS = Path(__file__).parents[2] / "js"
AXE = JS / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE: dict[str, list[str]] = json.loads((JS / "test" / "hostile.json").read_text("utf-8"))

ANSWER = r"""# Gradient descent

To minimise $f(x)$ we step against the gradient, with a rate $\eta$; it costs $5, not $10.

$$x_{t+1} = x_t - \eta \, \nabla f(x_t)$$

```python
def descend(f, x, rate=0.1):
    for _ in range(100):
        x = x - rate * f(x)  # the step
    return x
```

| method | rate | note |
|:-------|-----:|:-----|
| plain | 0.10 | see [the docs](https://numpy.org) |
| momentum | 0.05 | **faster** |

1. Choose a rate
2. Iterate:
   - compute `grad`
   - update

> Mind the step size.

\[ A = \begin{pmatrix} 2 & 1 \\ 1 & 3 \end{pmatrix} \]

The end.
"""
DIED = {"type": "EngineDeadError", "message": "The worker died (signal 9). Send it again."}
BROKEN = {"type": "ModelFormatError", "message": "params_shard_0.bin is cut off.\nDownload it."}
PROGRESS = {
    "progress": 0.42,
    "text": "",
    "phase": "download",
    "elapsed": 12,
    "eta_s": 7.2,
    "bytes_done": 42_000_000,
    "bytes_total": 100_000_000,
    "bytes_per_s": 8_100_000,
}
HANG = {"part": "worker", "seconds": 40.2}
RESULT = {"id": "r", "role": "tool", "name": "get_weather", "text": '{"sky": "clear"}'}
TOKENS = {
    "type": "tokens",
    "reply": "a",
    "tokens": [["In", 0.97, [["In", 0.97], ["At", 0.02]]], ["\n" * 60, 0.2, [[" Paris", 0.4]]]],
}
LONG_NAME = "a_name_without_end_" * 6
TITLED = {
    "rev": 1,
    "title": "A title that goes on and on " * 6,
    "messages": [user("How?"), reply("Step by step.", stats=STATS)],
}
SENT = [
    {"name": f"{LONG_NAME}.csv", "text": "a,b\n" * 20, "length": 50_000},
    {"name": "df", "text": "Data frame: 2 rows, 2 columns: a, b", "length": 35, "variable": True},
]
VARIABLES = [
    {"name": "df", "kind": "frame", "type": "DataFrame", "shape": [1200, 3]},
    {"name": LONG_NAME, "kind": "frame", "type": "DataFrame", "shape": [1, 3]},
    {"name": "last_error", "kind": "error", "type": "KeyError", "shape": None},
]
CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
QUESTION = {
    "call": 0,
    "server": "weather",
    "tool": "get_weather",
    "arguments": '{\n  "city": "Paris"\n}',
}


def states() -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """What the widget can look like: messages and other traits, by name."""
    question = user("How does gradient descent work?")
    return {
        "empty": ([], {}),
        "loading": ([], {"_engine": {**ENGINE, "state": "loading", "progress": PROGRESS}}),
        "load error": ([], {"_engine": {**ENGINE, "state": "idle", "error": BROKEN}}),
        "streaming": ([question, reply(ANSWER[:420], "running")], {}),
        "hung": ([question, reply("Step by", "running")], {"_engine": {**ENGINE, "hang": HANG}}),
        "long": ([question, reply(ANSWER, stats=STATS)], {}),
        "titled": ([], {"_chat": TITLED, "_engine": {**ENGINE, "model": LONG_NAME}}),
        "error": ([question, reply("It be", "error", error=DIED)], {}),
        "stopped": (
            [
                *(question, reply("Once upon a time", "stopped", stats=STATS)),
                *(user("And then?", "u2"), reply("", "queued", "a2")),
            ],
            {},
        ),
        "branches": (
            [
                user("How does it work?", branches=["t", "u", "v"]),
                reply("Step by step.", branches=["z", "a"], stats=STATS),
            ],
            {"_options": {"system": "Be brief.", "system_prompts": {LONG_NAME: "Be brief."}}},
        ),
        "attachments": ([user("Why?", attachments=SENT), reply("See.", stats=STATS)], {}),
        "tokens": ([question, reply("In Paris.", tokens=3, stats=STATS)], {}),
        "calls": ([question, reply("Let me see.", tool_calls=[CALL, CALL])], {}),
        "questions": (
            [
                question,
                reply(
                    "Let me see.",
                    tool_calls=[CALL, CALL],
                    calling=True,
                    questions=[QUESTION, {**QUESTION, "call": 1, "server": "s" * 60}],
                ),
            ],
            {},
        ),
        "results": (
            [
                *(question, reply("", tool_calls=[CALL])),
                *(RESULT, reply("Sunny.", message_id="b", resumed=False, stats=STATS)),
            ],
            {},
        ),
        "thoughts, tools, JSON": (
            [
                *(user("Weather?"), reply("<think>Look it up.</think>", tool_calls=[CALL])),
                *(user("As JSON", "u2"), reply('{"sun": [1, 2]}', message_id="a2", json=True)),
            ],
            {},
        ),
    }


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    opened: list[WidgetPage] = []

    def open_(**context: Any) -> WidgetPage:
        opened.append(WidgetPage(browser, **context))
        return opened[-1]

    yield open_
    for page in opened:
        page.close()
    assert not [fault for page in opened for fault in page.faults]


STREAM = """async (payloads) => {
    const snapshot = (status) => window.change({_chat: {rev: ++window.rev, messages:
        payloads.flatMap(([id, pieces]) => [
            {id: 'u' + id, role: 'user', text: pieces.join(''), status: 'done'},
            {id, role: 'assistant', text: status === 'done' ? pieces.join('') : '', status}])}});
    snapshot('running');
    const offsets = new Map();
    for (let step = 0; step < Math.max(...payloads.map(([, pieces]) => pieces.length)); step++) {
        for (const [reply, pieces] of payloads) {
            const text = pieces[step], offset = offsets.get(reply) ?? 0;
            if (text === undefined) continue;
            window.receive({type: 'delta', reply, offset, text});
            offsets.set(reply, offset + text.length);
        }
        await new Promise(requestAnimationFrame);
    }
    snapshot('done');
    await new Promise(requestAnimationFrame);
    const bad = 'script,img,iframe,object,embed,svg:not(.mlcw-icon),style,link'
        + ',form:not(.mlcw-composer),input:not(.mlcw-field),base,meta,video,audio'
        + ',[onerror],[onload],[onclick],[style]'
        + ',a[href],[src],[srcset],[id],[name],[ping],[background],[data-commandlinker-command]';
    const messages = [...document.querySelectorAll('.mlcw-chat .mlcw-message')];
    const body = messages.flatMap(
        (node) => [...node.querySelectorAll(bad)].map((found) => found.outerHTML.slice(0, 200)));
    const drawn = messages.filter((node) => node.checkVisibility({contentVisibilityAuto: true}));
    return {
        body, drawn: drawn.length,
        pwned: [window.pwned, self.pwned, document.cookie].filter(Boolean),
    };
}"""
TOGETHER = 8
"""Payloads that stream at a time: few enough that all of them are drawn at once."""


def test_hostile_text_runs_nothing_and_fetches_nothing(open_page: OpenPage) -> None:
    page = open_page()
    page.show()
    page.page.evaluate("window.rev = 1")
    cut = random.Random(7)
    payloads = [payload for group in HOSTILE.values() for payload in group]
    assert len(set(payloads)) >= 150
    for first in range(0, len(payloads), TOGETHER):
        batch = []
        for index, payload in enumerate(payloads[first : first + TOGETHER], first):
            edges = sorted(cut.sample(range(len(payload) + 1), min(3, len(payload))))
            cuts = zip([0, *edges], [*edges, len(payload)], strict=True)
            batch.append([f"r{index}", [payload[a:b] for a, b in cuts if a < b]])
        found = page.page.evaluate(STREAM, batch)
        assert found == {"body": [], "drawn": 2 * len(batch), "pwned": []}, batch
    page.page.locator(".mlcw-assistant .mlcw-body").first.click()
    # A link opens only what it shows, and only when it is clicked.
    page.change(_chat={"rev": 10_000, "messages": [reply("[x](https://a.test/b)", message_id="z")]})
    opened = page.page.evaluate(
        """() => {
            const calls = [];
            window.open = (...args) => calls.push(args);
            document.querySelector('.mlcw-assistant a').click();
            return calls;
        }"""
    )
    assert opened == [["https://a.test/b", "_blank", "noopener,noreferrer"]]


def test_finished_blocks_keep_their_nodes_and_nothing_jumps(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 700, "height": 900})
    page.show(user("Go"), reply("", "running"))
    found = page.page.evaluate(
        """async (text) => {
            const body = document.querySelector('.mlcw-assistant .mlcw-md');
            const removed = [];
            let finished = new Set();
            new MutationObserver((records) => {
                for (const record of records) for (const node of record.removedNodes)
                    for (const block of finished)
                        if (block === node || block.contains(record.target))
                            removed.push(block.outerHTML.slice(0, 80));
            }).observe(body, {subtree: true, childList: true});
            const heights = [];
            for (let at = 0; at < text.length; at += 3) {
                const piece = text.slice(at, at + 3);
                window.receive({type: 'delta', reply: 'a', offset: at, text: piece});
                await new Promise(requestAnimationFrame);
                await new Promise((resolve) => setTimeout(resolve));
                finished = new Set([...body.children].slice(0, -1));
                heights.push(body.getBoundingClientRect().height);
            }
            const shrunk = heights.filter((height, i) => i && height < heights[i - 1] - 1);
            return {removed, shrunk, blocks: body.children.length};
        }""",
        ANSWER,
    )
    assert found["removed"] == []
    assert found["shrunk"] == []
    assert found["blocks"] >= 8
    before = page.page.evaluate(
        "window.kept = [...document.querySelector('.mlcw-assistant .mlcw-md').children], true"
    )
    assert before
    page.change(_chat={"rev": 2, "messages": [user("Go"), reply(ANSWER, stats=STATS)]})
    assert page.page.evaluate(
        "window.kept.every((node, i) => document.querySelector('.mlcw-md').children[i] === node)"
    )


LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "narrow": {"viewport": {"width": 320, "height": 800}},
    "high contrast": {"forced_colors": "active"},
}


@pytest.mark.parametrize("look", but_for_soak(LOOKS, "high contrast", "light"))
def test_every_state_is_accessible_and_fits(open_page: OpenPage, look: str) -> None:
    page = open_page(**LOOKS[look])
    page.page.add_script_tag(content=AXE.read_text("utf-8"))
    for name, (messages, traits) in states().items():
        page.page.evaluate("document.getElementById('main').replaceChildren()")
        chat = page.show(*messages, **traits)
        if name in ("empty", "branches"):
            chat.get_by_role("button", name="Settings").click()
        if name == "tokens":
            chat.get_by_role("button", name="Token probabilities").click()
            page.page.evaluate("message => window.receive(message)", TOKENS)
        if name == "long":
            chat.get_by_role("button", name="Search").click()
            chat.get_by_role("searchbox").fill("gradient")
            expect(chat.get_by_role("search")).to_contain_text("1 of 3")
            marked = page.page.evaluate("CSS.highlights.get('mlcw-found').size")
            assert marked == 3
        if name == "titled":
            expect_in_view(chat.locator(".mlcw-name"), of=chat.locator(".mlcw-about"))
            rename = chat.get_by_role("button", name="Rename the chat")
            expect_in_view(rename, of=chat.locator(".mlcw-title"))
            rename.click()
            expect(chat.get_by_role("textbox", name="Title of the chat")).to_be_focused()
        for summary in chat.locator("summary").all():
            if summary.is_visible():
                summary.click()
        expect_accessible_and_fitting(page, chat, name)
    page.page.evaluate("document.getElementById('main').replaceChildren()")
    question = user("How does gradient descent work?")
    model = {"name": LONG_NAME, "place": "here", "bytes": 1_000_000_000, "fits": True}
    chat = page.show(
        question,
        _comparing={"offered": True, "chats": []},
        _options={"models": [model], "tools": [], "temperature": 0.5},
    )
    chat.get_by_role("button", name="Compare…").click()
    expect(chat.get_by_role("combobox", name="Compare with")).to_be_focused()
    expect_accessible_and_fitting(page, chat, "compare")
    page.page.evaluate("document.getElementById('main').replaceChildren()")
    two = page.show_two(
        {"_chat": {"rev": 1, "messages": [question, reply(ANSWER, stats=STATS)]}},
        {
            "_chat": {"rev": 1, "messages": [question, reply("Step by", "running")]},
            "_options": {"system": LONG_NAME, "temperature": 1.5},
            "_engine": {**ENGINE, "model": LONG_NAME},
        },
    )
    expect_accessible_and_fitting(page, two, "two chats")
    first, second = (column.bounding_box() for column in two.locator(".mlcw-column").all())
    assert first
    assert second
    assert (second["x"] == first["x"]) == (look == "narrow"), "one below the other where narrow"
    page.page.evaluate("document.getElementById('main').replaceChildren()")
    chat = page.show()
    page.page.evaluate("names => window.receive({type: 'notebook', names})", VARIABLES)
    chat.locator("input[type=file]").set_input_files(
        [FilePayload(name=f"{LONG_NAME}.txt", mimeType="text/plain", buffer=b"a line\n")] * 2
    )
    expect(chat.get_by_role("list", name="Attachments").get_by_role("listitem")).to_have_count(2)
    expect(chat.get_by_role("list", name="Suggestions").get_by_role("button")).to_have_count(3)
    chat.get_by_role("textbox", name="Message").press_sequentially("Describe {")
    expect(chat.get_by_role("option")).to_have_count(3)
    expect_accessible_and_fitting(page, chat, "composing")


def expect_in_view(part: Locator, of: Locator) -> None:
    """A part has a width to be read in, within the box that holds it."""
    inner, outer = part.bounding_box(), of.bounding_box()
    assert inner
    assert outer
    assert inner["width"] > 30
    assert outer["x"] - 7 <= inner["x"]
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1


def expect_accessible_and_fitting(page: WidgetPage, chat: Locator, name: str) -> None:
    faults = page.page.evaluate(
        """async () => {
            const {violations} = await axe.run('#main', {resultTypes: ['violations']});
            return violations
                .filter(({impact}) => impact === 'serious' || impact === 'critical')
                .map(({id, nodes}) => [id, nodes.map((node) => node.html.slice(0, 160))]);
        }"""
    )
    assert faults == [], name
    overflow = chat.evaluate(
        """root => [...root.querySelectorAll('*')]
            .filter(node => !node.closest('.mlcw-sr, math, pre, .mlcw-table, .mlcw-math'))
            .filter(node => node.getClientRects().length)
            .filter(node => node.getBoundingClientRect().right
                > root.getBoundingClientRect().right + 0.5)
            .map(node => node.outerHTML.slice(0, 120))"""
    )
    assert overflow == [], name


def test_the_chat_takes_the_window_and_a_height_that_is_dragged(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 900, "height": 700})
    chat = page.show(user("Go"), reply(ANSWER, stats=STATS))
    box = chat.get_by_role("textbox", name="Message")
    box.fill("What is typed")
    log, place = chat.locator(".mlcw-log"), chat.bounding_box()
    full = chat.get_by_role("button", name="Full window")
    full.press("Enter")
    assert chat.bounding_box() == {"x": 0, "y": 0, "width": 900, "height": 700}
    expect(box).to_be_in_viewport(ratio=1)
    back = chat.get_by_role("button", name="Back into the page")
    expect(back).to_be_focused()
    expect(back).to_have_attribute("aria-pressed", "true")
    back.press("Enter")
    assert chat.bounding_box() == place
    expect(box).to_have_value("What is typed")

    # The corner is the browser's own handle.
    assert place is not None
    mouse = page.page.mouse
    for height in (400, 640):
        corner = chat.bounding_box()
        assert corner is not None
        mouse.move(corner["x"] + corner["width"] - 4, corner["y"] + corner["height"] - 4)
        mouse.down()
        mouse.move(corner["x"] + corner["width"] - 4, corner["y"] + height - 4, steps=3)
        mouse.up()
        found = chat.bounding_box()
        assert found is not None
        assert found["height"] == pytest.approx(height, abs=2)
        expect(chat.locator(".mlcw-head")).to_be_in_viewport(ratio=1)
        expect(box).to_be_in_viewport(ratio=1)
        inner = log.bounding_box()
        assert inner is not None
        assert inner["height"] > height - 160


SELECT = """({first, last}) => {
    const bodies = document.querySelectorAll('.mlcw-message .mlcw-body');
    getSelection().setBaseAndExtent(bodies[first], 0, bodies[last], 1);
}"""


def test_text_selected_in_a_reply_is_quoted_and_files_are_dropped(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.show(user("Why?"), reply("Since **iron** rusts.\n\nIn rain."))
    box = chat.get_by_role("textbox", name="Message")
    ask = chat.get_by_role("button", name="Ask about this")
    box.fill("So:")
    for first, last in ((0, 0), (0, 1)):  # not a reply, and more than a reply
        page.page.evaluate(SELECT, {"first": first, "last": last})
        page.frame()
        expect(ask).to_be_hidden()
    page.page.evaluate(SELECT, {"first": 1, "last": 1})
    expect(ask).to_be_visible()
    ask.click()
    expect(box).to_have_value("So:\n> Since iron rusts.\n>\n> In rain.\n\n")
    expect(box).to_be_focused()
    expect(ask).to_be_hidden()

    page.page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            const add = (...given) => dataTransfer.items.add(new File(...given));
            add(['a,b'], 'x.csv', {type: 'text/csv'});
            add([''], 'y.png', {type: 'image/png'});
            const log = document.querySelector('.mlcw-log');
            const init = {dataTransfer, bubbles: true, cancelable: true};
            for (const type of ['dragover', 'drop']) log.dispatchEvent(new DragEvent(type, init));
        }"""
    )
    expect(chat.get_by_role("list", name="Attachments")).to_contain_text("x.csv3 characters")
    expect(chat.get_by_role("status").filter(has_text="y.png")).to_have_text(
        "y.png: demo cannot see images. Attach text instead."
    )
    expect(box).to_have_value("So:\n> Since iron rusts.\n>\n> In rain.\n\n")


def test_all_of_it_works_by_keys(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.show(
        user("One", branches=["t", "u"]), reply("Answer", stats=STATS, branches=["a", "b"])
    )
    keyboard = page.page.keyboard
    chat.get_by_role("button", name="Settings").focus()
    reached = []
    for _ in range(15):
        keyboard.press("Tab")
        reached.append(
            page.page.evaluate(
                "document.activeElement.ariaLabel ?? document.activeElement.textContent"
            )
        )
    wanted = [
        *("Conversation", "Previous version", "Copy message", "Edit message", "Delete"),
        *("Next version", "Copy reply", "Regenerate", "Attach text files", "Message"),
    ]
    assert [name for name in wanted if name not in reached] == []
    focus_ring = chat.get_by_role("button", name="Regenerate")
    focus_ring.focus()
    assert focus_ring.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    chat.get_by_role("button", name="Edit message").focus()
    keyboard.press("Enter")
    editor = chat.get_by_role("textbox", name="Edit message")
    expect(editor).to_be_focused()
    editor.fill("Two")
    keyboard.press("Escape")
    expect(editor).to_have_count(0)
    expect(chat.get_by_role("button", name="Edit message")).to_be_focused()
    keyboard.press("Enter")
    editor.fill("Two")
    keyboard.press("Enter")
    expect(editor).to_have_count(0)
    chat.get_by_role("button", name="Previous version").first.press("Enter")
    remove = chat.get_by_role("button", name="Delete").last
    remove.press("Enter")
    chat.get_by_role("button", name="Delete?").press("Enter")
    page.wait_for_sent(3)
    assert page.sent() == [
        {"kind": "edit", "message": "u", "text": "Two"},
        {"kind": "select", "message": "t"},
        {"kind": "delete", "message": "a"},
    ]


def test_a_screen_reader_hears_sentences_and_nothing_moves_where_it_should_not(
    open_page: OpenPage,
) -> None:
    page = open_page(reduced_motion="reduce")
    page.show(user("Go"), reply("", "running"))
    heard = page.page.evaluate(
        """async () => {
            const region = [...document.querySelectorAll('.mlcw-chat > .mlcw-sr')].at(-1);
            const heard = [];
            new MutationObserver(() => heard.push(region.textContent))
                .observe(region, {childList: true, characterData: true, subtree: true});
            const text = 'The first sentence. The second one is here. And a third';
            for (let at = 0; at < text.length; at++) {
                window.receive({type: 'delta', reply: 'a', offset: at, text: text[at]});
                if (at % 4 === 0) await new Promise(requestAnimationFrame);
            }
            await new Promise((resolve) => setTimeout(resolve, 100));
            return heard;
        }"""
    )
    assert heard == ["The first sentence.", "The second one is here."]
    moving = page.page.evaluate(
        "document.getAnimations().filter((a) => a.playState === 'running').length"
    )
    assert moving == 0


def test_it_follows_the_end_until_the_reader_scrolls_away(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.show(user("Go"), reply("line\n\n" * 60, "running"))
    log = chat.get_by_role("log")
    distance = "node => node.scrollHeight - node.scrollTop - node.clientHeight"
    assert log.evaluate(distance) <= 2
    jump = chat.get_by_role("button", name="Jump to latest")
    expect(jump).to_be_hidden()
    log.evaluate("node => node.scrollTo(0, 100)")
    expect(jump).to_be_visible()
    page.page.evaluate(
        "window.receive({type: 'delta', reply: 'a', offset: 360, text: 'more\\n\\n'.repeat(20)})"
    )
    page.frame()
    assert log.evaluate("node => node.scrollTop") == 100
    jump.click()
    assert log.evaluate(distance) <= 2
    expect(jump).to_be_hidden()
    # Of a long conversation, only what is near is laid out; the reader does not notice.
    page.page.evaluate("document.getElementById('main').replaceChildren()")
    many = [reply(f"Reply {n}.\n\n{ANSWER}", message_id=f"r{n}") for n in range(150)]
    log = page.show(*many, user("Go"), reply("", "running")).get_by_role("log")
    laid_out = "node => node.checkVisibility({contentVisibilityAuto: true})"
    first = page.page.locator(".mlcw-assistant .mlcw-md p").first
    assert not first.evaluate(laid_out)
    assert log.evaluate(distance) <= 2
    page.page.evaluate(
        "window.receive({type: 'delta', reply: 'a', offset: 0, text: 'more\\n\\n'.repeat(20)})"
    )
    page.frame()
    assert log.evaluate(distance) <= 2
    log.evaluate("node => node.scrollTo(0, 0)")
    page.frame()
    expect(first).to_have_text("Reply 0.")
    assert first.evaluate(laid_out)


def test_of_a_long_reply_only_what_is_in_view_is_laid_out(open_page: OpenPage) -> None:
    page = open_page()
    log = page.show(user("Go"), reply("", "running")).get_by_role("log")
    page.page.evaluate(
        """async (text) => {
            for (let at = 0; at < text.length; at += 250) {
                const piece = text.slice(at, at + 250);
                window.receive({type: 'delta', reply: 'a', offset: at, text: piece});
                await new Promise(requestAnimationFrame);
                await new Promise((resolve) => setTimeout(resolve));
            }
        }""",
        f"{ANSWER}\n\n" * 7,
    )
    distance = "node => node.scrollHeight - node.scrollTop - node.clientHeight"
    assert log.evaluate(distance) <= 2
    laid_out = "node => node.checkVisibility({contentVisibilityAuto: true})"
    parts = page.page.locator(".mlcw-md-part")
    assert not parts.nth(3).locator("> *").first.evaluate(laid_out)
    assert parts.last.locator("> *").last.evaluate(laid_out)
    parts.nth(3).evaluate("node => node.scrollIntoView()")
    page.frame()
    assert parts.nth(3).locator("> *").first.evaluate(laid_out)
    # Nothing else tells the parts: each block is where it would be without them.
    moved = page.page.evaluate(
        """() => {
            const body = document.querySelector('.mlcw-assistant .mlcw-md');
            const style = document.createElement('style');
            style.textContent = '.mlcw-md-done { content-visibility: visible !important }';
            document.head.append(style);
            const blocks = [...body.children].flatMap((node) =>
                node.matches('.mlcw-md-part') ? [...node.children] : [node]);
            const places = () => blocks.map((node) => {
                const {top, height} = node.getBoundingClientRect();
                return [top - body.getBoundingClientRect().top, height];
            });
            const before = places();
            for (const part of body.querySelectorAll('.mlcw-md-part'))
                part.replaceWith(...part.childNodes);
            const shifts = places().flat().map((at, i) => at - before.flat()[i]);
            return shifts.filter((by) => Math.abs(by) > 0.5);
        }"""
    )
    assert moved == []


def test_two_views_show_the_same(open_page: OpenPage) -> None:
    page = open_page()
    page.show(user("Go"), reply("", "running"), views=2)
    page.page.evaluate(
        "window.receive({type: 'delta', reply: 'a', offset: 0, text: 'Both **see**'})"
    )
    page.frame()
    expect(page.page.locator(".mlcw-assistant .mlcw-body")).to_have_text(["Both see"] * 2)


def test_text_runs_in_its_own_direction(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.show(
        user("\u0645\u0631\u062d\u0628\u0627"),
        reply("\u05e9\u05dc\u05d5\u05dd\n\n- \u05d0\u05d7\u05ea\n\nEnglish\n\n```\ncode\n```"),
    )
    ways = {".mlcw-user .mlcw-body": "rtl", ".mlcw-md ul": "rtl", "pre": "ltr", "p >> nth=1": "ltr"}
    for part, way in {**ways, "p >> nth=0": "rtl"}.items():
        found = chat.locator(part).first.evaluate("node => getComputedStyle(node).direction")
        assert found == way, part
    box = chat.get_by_role("textbox", name="Message")
    box.fill("\u0645\u0631\u062d\u0628\u0627")
    assert box.evaluate("node => getComputedStyle(node).direction") == "rtl"
    # In a page that runs the other way, Send is at the other end, and nothing sticks out.
    page.page.evaluate("document.documentElement.dir = 'rtl'")
    send, text = chat.get_by_role("button", name="Send").bounding_box(), box.bounding_box()
    assert send
    assert text
    assert send["x"] < text["x"]
    inner = "node => node.scrollWidth <= node.clientWidth"
    assert chat.get_by_role("log").evaluate(inner)


def test_settings_are_sent_when_they_change(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.show()
    chat.get_by_role("button", name="Settings").click()
    chat.get_by_label("Temperature").fill("0.5")
    chat.get_by_label("System prompt").fill("Be brief.")
    chat.get_by_label("Seed").fill("7")
    chat.get_by_label("Temperature").fill("")
    chat.get_by_role("combobox", name="Model").fill("/models/tiny")
    chat.get_by_role("button", name="Load").click()
    page.wait_for_sent(5)
    assert page.sent() == [
        {"kind": "set", "name": "temperature", "value": 0.5},
        {"kind": "set", "name": "system", "value": "Be brief."},
        {"kind": "set", "name": "seed", "value": 7},
        {"kind": "set", "name": "temperature", "value": None},
        {"kind": "load", "model": "/models/tiny"},
    ]
    page.change(_options={"system": "Be kind.", "temperature": 1, "models": ["demo"], "tools": []})
    expect(chat.get_by_label("System prompt")).to_have_value("Be kind.")
    expect(chat.get_by_label("Temperature")).to_have_value("1")

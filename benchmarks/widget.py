"""What the chat costs the page: messages, bytes, memory, frames, Stop, and the first paint.

It runs a real JupyterLab in Chromium, a real kernel, and a worker that follows a script. Every
figure is printed with its goal and, where it has one, the figure of an idle page. Run it on an idle
machine:

    python benchmarks/widget.py [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, WebSocket, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import FLAGS, find_chromium  # noqa: E402
from tests.browser.lab import Lab, Notebook  # noqa: E402
from tests.widget.script_folder import write_script_folder  # noqa: E402

TOKENS_PER_S = 500
# Words, code, a table and a list, so that there are blocks to finish: about 1.7 kB, 250 tokens.
MARKDOWN = (
    "## A heading\n\n" + "Some words that make a paragraph with `code` and *emphasis*. " * 10
    + "\n\n```python\nfor i in range(10):\n    print(i * i)\n```\n\n"
    + "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 5
    + "\n" + "- an item of a list, with **words** in it\n" * 5 + "\n"
    + "And $a^2 + b^2 = c^2$ in a sentence that ends the part. " * 8 + "\n\n"
)  # fmt: skip
SETUP = """
from mlc_widget import ChatWidget, create_kernel_mlc_engine
engine = await create_kernel_mlc_engine(
    {folder!r}, runtime="scripted", runtime_options={script!r}, show_progress=False
)
history = [
    {{"role": "assistant" if n % 2 else "user", "content": {markdown!r} if n % 2 else "Go on."}}
    for n in range(200)
]
"""
SHOW = "chat = ChatWidget(engine, history=history, max_tokens=10**7)\nchat"
SHOW_EMPTY = "empty = ChatWidget(engine)\nempty"
WATCH = """
import time
taken = []
queue = chat._session._queue
_generated = queue._on_generated
def _on_generated(outcome):
    taken.append(time.time())  # the engine's stream is closed: it was told
    _generated(outcome)
queue._on_generated = _on_generated
"""
BUSY = """
import time
end = time.monotonic() + 600
while time.monotonic() < end and len(taken) < {stops}:
    pass
"""
TAKEN = "import json\nprint(json.dumps(taken))"
FRAMES = """seconds => new Promise(resolve => {
    const frames = [];
    const end = performance.now() + 1000 * seconds;
    let last = performance.now();
    const next = now => {
        frames.push(now - last);
        last = now;
        if (now < end) requestAnimationFrame(next); else resolve(frames);
    };
    requestAnimationFrame(next);
})"""


class Traffic:
    """What the kernel sends to the page by its websocket."""

    def __init__(self, page: Page) -> None:
        self.messages = 0
        self.bytes = 0
        page.on("websocket", self._watch)

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._count)

    def _count(self, payload: str | bytes) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        if b"comm_msg" in data:
            self.messages += 1
        self.bytes += len(data)


class Figures:
    """The lines of the report."""

    def __init__(self) -> None:
        self.missed = 0

    def add(self, what: str, value: float, unit: str, *, goal: float, control: str = "") -> None:
        """Print a figure beside its goal."""
        met = value <= goal
        self.missed += not met
        beside = f"   idle: {control}" if control else ""
        verdict = "" if met else "   MISSED"
        digits = 1 if unit else 2
        print(
            f"{what:<52}{value:>10.{digits}f} {unit:<4} goal {goal:g} {unit}{beside}{verdict}",
            flush=True,
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def heap(session: CDPSession) -> float:
    """Bytes that JavaScript holds, after collecting garbage."""
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize"))


def paint(notebook: Notebook, index: int, messages: int) -> float:
    """Milliseconds from running a chat's cell until its messages are painted."""
    notebook.cell(index).locator(".jp-InputArea-editor").click()
    return float(
        notebook.page.evaluate(
            """async ([index, messages]) => {
                const begun = performance.now();
                window.jupyterapp.commands.execute('notebook:run-cell');
                const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[index];
                for (;;) {
                    await new Promise(requestAnimationFrame);
                    const chat = cell.querySelector('.mlcw-chat');
                    if (chat && chat.querySelectorAll('.mlcw-list > *').length >= messages) break;
                }
                await new Promise(requestAnimationFrame);
                return performance.now() - begun;
            }""",
            [index, messages],
        )
    )


def stream(notebook: Notebook, traffic: Traffic, seconds: float, figures: Figures) -> None:
    """A long answer below 200 messages: messages, bytes, heap and frames."""
    page = notebook.page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    idle = page.evaluate(FRAMES, 5)
    before = heap(session)
    root = notebook.output(3).locator(".mlcw-chat")
    root.get_by_role("textbox", name="Message").fill("Write a lot")
    messages, received = traffic.messages, traffic.bytes
    root.get_by_role("textbox", name="Message").press("Enter")
    half = page.evaluate(FRAMES, seconds / 2)
    first_half = traffic.bytes - received
    whole = half + page.evaluate(FRAMES, seconds / 2)
    second_half = traffic.bytes - received - first_half
    per_s = (traffic.messages - messages) / seconds
    root.get_by_role("button", name="Stop").click()
    expect(root.get_by_role("button", name="Stop")).to_be_hidden()
    size = page.evaluate("new Promise(r => setTimeout(r, 2000))") or heap(session)
    # Not the inner text, which lacks what is not laid out as it is not in view.
    text = len(root.locator(".mlcw-assistant .mlcw-body").last.text_content() or "")
    print(
        f"{TOKENS_PER_S} tok/s for {seconds:.0f} s below 200 messages: {text / 1000:.0f} kB of text"
    )
    figures.add("messages from the kernel", per_s, "/s", goal=40)
    growth = second_half / max(first_half, 1)
    figures.add("bytes of the second half to the first's", growth, "", goal=1.3)
    print(f"{'bytes in all':<52}{(first_half + second_half) / 1e6:>10.1f} MB")
    figures.add("JS heap after to before", size / before, "", goal=1.2)
    print(f"{'JS heap before and after':<52}{before / 1e6:>10.1f} MB   {size / 1e6:.1f} MB")
    control = f"{percentile(idle, 0.99):.1f} ms"
    figures.add(
        "frame time, 99th percentile", percentile(whole, 0.99), "ms", goal=50, control=control
    )


def stops(notebook: Notebook, count: int, figures: Figures) -> None:
    """From the click on Stop to the engine, while a cell computes."""
    page = notebook.page
    notebook.run(4)
    notebook.expect_done(4)
    notebook.run(5)
    notebook.expect_running(5)
    root = notebook.output(3).locator(".mlcw-chat")
    page.evaluate(
        """() => {
            window.clicked = [];
            document.addEventListener('click', event => {
                if (event.target.closest('.mlcw-stop')) window.clicked.push(Date.now());
            }, {capture: true});
        }"""
    )
    stop = root.get_by_role("button", name="Stop")
    box = root.get_by_role("textbox", name="Message")
    for _ in range(count):
        box.fill("Go on")
        box.press("Enter")
        reply = root.locator(".mlcw-assistant").last
        expect(reply.locator(".mlcw-body")).to_contain_text("heading", timeout=30_000)
        stop.click()
        expect(stop).to_be_hidden(timeout=30_000)
    notebook.expect_done(5)
    notebook.run(6)
    notebook.expect_done(6)
    taken = [1000 * t for t in json.loads(notebook.output(6).inner_text().strip().splitlines()[-1])]
    clicked = page.evaluate("window.clicked")
    late = [t - c for c, t in zip(clicked, taken, strict=True)]
    print(f"Stop, while a cell runs a tight loop ({count} times)")
    print(f"{'median':<52}{statistics.median(late):>10.1f} ms")
    figures.add("95th percentile", percentile(late, 0.95), "ms", goal=100)


def main() -> int:
    """Measure; 0 if every goal was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to stream")
    parser.add_argument("--stops", type=int, default=20, help="how often to press Stop")
    given = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as home:
        folder = write_script_folder(Path(home) / "models" / "script")
        config = json.loads((folder / "mlc-chat-config.json").read_text())
        config["context_window_size"] = 10_000_000
        (folder / "mlc-chat-config.json").write_text(json.dumps(config))
        script: dict[str, Any] = {
            "text": MARKDOWN,
            "repeat": 10_000,
            "pace_s": 1 / TOKENS_PER_S,
        }
        setup = SETUP.format(folder=str(folder), script=script, markdown=MARKDOWN[:300])
        lab = Lab(Path(home) / "lab")
        busy = BUSY.format(stops=given.stops)
        try:
            lab.write("bench.ipynb", ["pass", setup, SHOW_EMPTY, SHOW, WATCH, busy, TAKEN])
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
                page = browser.new_page(viewport={"width": 1100, "height": 900})
                traffic = Traffic(page)
                notebook = Notebook(page, lab.address("bench.ipynb"))
                notebook.run(1)
                notebook.expect_done(1)
                empty = paint(notebook, 2, 0)
                full = paint(notebook, 3, 200)
                control = f"{empty:.0f} ms"
                figures.add("paint of 200 messages", full, "ms", goal=1000, control=control)
                stream(notebook, traffic, given.seconds, figures)
                stops(notebook, given.stops, figures)
                notebook.close()
                browser.close()
        finally:
            lab.close()
    return 1 if figures.missed else 0


if __name__ == "__main__":
    sys.exit(main())

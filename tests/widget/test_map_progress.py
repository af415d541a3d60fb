"""`MapProgress`: what the page gets of a map, its buttons, and the summary that is kept."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from mlc_widget import AsyncMLCEngineInterface, MapReport, MLCEngineInterface
from mlc_widget.api.errors import InternalEngineError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.table.progress_display import register_progress_display
from mlc_widget.widget import map_progress
from mlc_widget.widget.map_progress import MapProgress, display_map_progress
from mlc_widget.widget.map_summary import short_text, summary_html, summary_text

from ..api.table.conftest import FakeCore
from ..waiting import until

HOSTILE = '</script><img src=x onerror="alert(1)">{text} <|im_end|>'


class Recorded(MapProgress):
    """A widget that records what it sends to the page, and is shown nowhere."""

    def __init__(self, *args: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        super().__init__(*args)

    def _send(self, msg: Any, buffers: Any = None) -> None:
        self.sent.append(msg)

    def show(self) -> None:
        pass

    @property
    def maps(self) -> list[dict[str, Any]]:
        return [m["state"]["_map"] for m in self.sent if "_map" in m.get("state", {})]

    def press(self, kind: str) -> None:
        self._take({"type": "intent", "id": f"{kind}{len(self.sent)}", "intent": {"kind": kind}})


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


@pytest.fixture
def shown() -> Iterator[list[Recorded]]:
    """The widgets of the maps of a test."""
    made: list[Recorded] = []

    def show(*args: Any) -> Recorded:
        made.append(Recorded(*args))
        return made[-1]

    before = register_progress_display(show)
    yield made
    register_progress_display(before)
    for widget in made:
        widget.close()


def rows(count: int) -> list[dict[str, str]]:
    return [{"text": f"word {i}"} for i in range(count)]


async def test_the_page_gets_counts_and_the_last_rows(
    core: FakeCore, shown: list[Recorded]
) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    core.errors = {HOSTILE: InternalEngineError(HOSTILE)}
    data = [*rows(30), {"text": "x" * 5_000_000}, {"text": HOSTILE}, {"text": None}]
    await engine.map("{text}", data, cache=False)
    (widget,) = shown
    last = widget.maps[-1]
    assert (last["state"], last["total"], last["rows"]) == ("done", 33, 33)
    assert (last["errors"], last["skipped"]) == (2, 1)
    assert last["columns"] == ["text", "reply"]
    assert len(last["last"]) == 6
    assert all(len(cell) <= 160 for row in last["last"] for cell in row["cells"])
    assert "<" not in repr(widget.maps), "saved state cannot end a script tag"
    assert len(repr(last)) < 10_000
    revs = [shown["rev"] for shown in widget.maps]
    assert revs == sorted(set(revs))


async def test_stop_keeps_what_is_done_and_marks_the_rest(
    core: FakeCore, shown: list[Recorded]
) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    core.held = lambda text: int(text.split()[1]) >= 10
    report = MapReport()
    task = asyncio.create_task(engine.map("{text}", rows(40), cache=False, report=report))
    await until(lambda: report.rows == 10 and core.running == 20)
    shown[0].press("stop")
    made = await asyncio.wait_for(task, 60)
    await until(lambda: core.running == 0)
    assert [row["reply"] is None for row in made] == [False] * 10 + [True] * 30
    assert "error" in made[0]
    assert made[0]["error"] is None
    assert all(row["error"].startswith("Stopped: ") for row in made[10:])
    assert (report.state, report.rows, report.errors) == ("stopped", 10, 0)
    assert shown[0].maps[-1]["state"] == "stopped"
    assert ", stopped" in str(report)


async def test_pause_sends_no_more_rows_until_resume(core: FakeCore, shown: list[Recorded]) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    core.held = lambda text: True
    report = MapReport()
    task = asyncio.create_task(engine.map("{text}", rows(40), cache=False, report=report))
    await until(lambda: core.running == 20)
    shown[0].press("pause")
    await until(lambda: report.state == "paused")
    core.held = lambda text: False
    HomeLoop.shared().call_soon(core.gate.set)
    await until(lambda: report.rows == 20)
    assert len(core.requests) == 20
    paused = shown[0].maps[-1]
    shown[0].press("resume")
    assert len(await asyncio.wait_for(task, 60)) == 40
    assert report.rows == 40
    assert report.active_seconds < report.seconds
    assert paused["state"] == "paused"


@pytest.mark.parametrize("paused", [False, True])
def test_a_blocking_map_is_stopped_from_another_thread(core: FakeCore, paused: bool) -> None:
    engine = MLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    report, results = MapReport(), []
    core.held = lambda text: text != "word 0"

    def endless() -> Iterator[dict[str, str]]:
        i = 0
        while True:
            yield {"text": f"word {i}"}
            i += 1

    def run() -> None:
        results.append(engine.map("{text}", endless(), cache=False, report=report))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    engine._home.wait_blocking(
        lambda: asyncio.wait_for(until(lambda: report.rows == 1 and core.running == 20), 60)
    )
    if paused:
        report.pause()
    report.stop()
    thread.join(60)
    (made,) = results
    assert made[0]["error"] is None
    assert [row["text"] for row in made] == [f"word {i}" for i in range(21)], "none that was read"
    assert all(row["error"].startswith("Stopped") for row in made[1:])


async def test_a_stream_that_is_stopped_ends_after_what_is_done(core: FakeCore) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    report, seen = MapReport(), 0
    async for row in engine.map_stream("{text}", rows(40), cache=False, report=report):
        assert row.error is None
        seen += 1
        if seen == 5:
            report.stop()
    assert 5 <= seen < 40
    assert report.state == "stopped"
    again = await engine.map("{text}", rows(3), cache=False, report=report, on_error="raise")
    assert report.state == "done"
    assert "error" not in again[0], "an earlier stop does not stop the next map"


async def test_a_map_that_is_stopped_while_its_model_loads_asks_nothing(core: FakeCore) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    report = MapReport()
    report.stop()
    made = await engine.map("{text}", rows(3), cache=False, report=report)
    assert core.requests == []
    assert report.state == "stopped"
    assert [row["reply"] for row in made] == [None] * 3
    await engine.map("{text}", rows(3), cache=False, report=report)
    assert report.state == "done"


async def test_a_map_that_is_cancelled_or_fails_says_so(
    core: FakeCore, shown: list[Recorded]
) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    core.errors = {"word 3": InternalEngineError("a bug")}
    with pytest.raises(InternalEngineError):
        await engine.map("{text}", rows(9), cache=False, on_error="raise")
    assert shown[0].maps[-1]["state"] == "failed"
    shown[0].press("stop")  # an old widget does nothing to a later map
    await engine.map("{text}", rows(3), cache=False)
    assert shown[1].maps[-1]["state"] == "done"


def test_nothing_is_displayed_where_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (MapReport(), ["text"], ["reply"], HomeLoop.shared())
    assert display_map_progress(*arguments) is None
    monkeypatch.setattr(map_progress, "in_notebook", lambda: True)
    for client in ("console", "batch"):
        monkeypatch.setattr(map_progress, "client_of", lambda shell, client=client: client)
        assert display_map_progress(*arguments) is None


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[Any] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs


async def test_the_summary_is_inert_and_says_all(core: FakeCore, shown: list[Recorded]) -> None:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    core.errors = {HOSTILE: InternalEngineError(HOSTILE)}
    await engine.map("{text}", [{"text": HOSTILE}, {"text": "<b>"}], cache=False)
    bundle = shown[0]._summary_bundle()
    tags = Tags(bundle["text/html"])
    assert tags.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert tags.attributes == []
    assert html.escape(HOSTILE) in bundle["text/html"]
    assert bundle["text/plain"].startswith("map: done, 2 of 2 rows, ")
    assert "1 error" in bundle["text/plain"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        ("a\n b\t\x00", "a b \x00"),
        ({"a": [1, None, "x"]}, "a: 1, , x"),
        (b"123", "3 bytes"),
        (True, "True"),
        (0.48012874660984556, "0.480129"),
        (12.0, "12"),
        ("é" * 200, "é" * 159 + "…"),
        (" " * 10_000_000, "…"),
        ([[["deep"]]], "deep"),
    ],
)
def test_cells_are_one_short_line(value: Any, text: str) -> None:
    assert short_text(value) == text


def test_a_cell_of_many_or_deep_items_is_written_in_part() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert len(short_text(deep)) <= 160
    wide = [[list(range(10**5))] * 1000] * 1000
    assert len(short_text(wide)) <= 160

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert short_text(Broken()) == "Broken"
    shown = {"state": "done", "total": None, "rows": 1, "rows_per_s": 0.0, "tokens_per_s": 3.0}
    counts = dict.fromkeys(("errors", "cached", "skipped", "truncated"), 1)
    rest = {"elapsed": 1.0, "first_error": "", "last": [], "columns": []}
    assert "1 rows, 0.0 rows/s, 3 tok/s, 1.0 s, 1 error, 1 cached" in summary_text(
        {**shown, **counts, **rest}
    )
    assert "<table" not in summary_html({**shown, **counts, **rest})

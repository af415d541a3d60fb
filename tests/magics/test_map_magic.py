"""`%%map` and `%mlc cache`: arguments, completion, and a map that runs behind its cell."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlc_widget import AsyncMLCEngineInterface
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.table.reply_cache import Reply, ReplyCache
from mlc_widget.cli import main as cli
from mlc_widget.magics import transformers
from mlc_widget.magics.commands import MLCMagics
from mlc_widget.magics.completion import complete_map
from mlc_widget.magics.engine_registry import EngineRegistry

from ..api.table.conftest import FakeCore
from .conftest import Execute
from .test_in_kernel import load, printed

FRAME = {"review": ["good", "bad", None], "first name": ["Ada", "Bob", "Cy"]}


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCore:
    """The core of the engine that the magics find."""
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    core = FakeCore()
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    monkeypatch.setattr(EngineRegistry, "need_one_model", lambda self, name: engine)
    return core


@pytest.fixture
def frames(shell: InteractiveShell) -> InteractiveShell:
    shell.user_ns["reviews"] = pd.DataFrame(FRAME)
    shell.user_ns["items"] = [{"text": "a"}, {"text": "b"}]
    shell.user_ns["Mood"] = Literal["good", "bad"]
    shell.user_ns["number"] = 5
    shell.user_ns["twice"] = lambda text: text * 2

    def number_of(text: str) -> int:
        """Count."""
        return len(text)

    shell.user_ns["number_of"] = number_of
    return shell


def test_a_map_in_a_terminal_puts_its_table_into_a_variable(
    frames: InteractiveShell, said: Callable[[str], str], core: FakeCore
) -> None:
    core.answer = lambda text: '"bad"' if "bad" in text else '"good"'
    assert said("%%map reviews --into out --schema Mood --column mood --seed 3\nIs {review}?") == ""
    out = frames.user_ns["out"]
    assert list(out["mood"])[:2] == ["good", "bad"]
    assert out["mood"].isna().iloc[2]
    assert sorted(core.texts) == ["Is bad?", "Is good?"]
    assert "mood" not in frames.user_ns["reviews"]
    assert frames.user_ns["_map"].done()
    assert "3 of 3 rows" in repr(frames.user_ns["_map"])
    core.answer = None
    said("%%map items --into out --limit 1 --system Kind --temperature 0.5 --no-cache\n{text}")
    assert len(frames.user_ns["out"]) == 1
    assert core.requests[-1]["temperature"] == 0.5
    assert core.requests[-1]["messages"][0] == {"role": "system", "content": "Kind"}
    core.answer = lambda text: '"b"'
    said("%%map items --into labels --labels a b --no-cache\n{text}")
    assert [row["reply"] for row in frames.user_ns["labels"]] == ["b", "b"]
    schema = core.requests[-1]["response_format"]["json_schema"]["schema"]
    assert schema["enum"] == ["a", "b"]
    core.answer = lambda text: "7"
    said("%%map items --into numbers --schema int --no-cache\n{text}")
    assert [row["reply"] for row in frames.user_ns["numbers"]] == [7, 7]
    said("%%map items --into out --tools number_of twice --no-cache\n{text}")
    offered = [tool["function"] for tool in core.requests[-1]["tools"]]
    assert [tool["name"] for tool in offered] == ["number_of", "twice"]
    assert offered[0]["description"] == "Count."


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("%%map\n{x}", "arguments are required: data"),
        ("%%map nothing --into out\n{x}", "no variable has that name. Tables: items, reviews"),
        ("%%map number --into out\n{x}", "give a pandas"),
        ("%%map reviews --into 1x\n{review}", "a valid name for a variable"),
        ("%%map reviews --into class\n{review}", "a valid name for a variable"),
        ("%%map reviews --into out\n{revew}", "Did you mean {review}"),
        ("%%map reviews --into out\n ", "write the template"),
        ("%%map reviews --into out --schema Nope\n{review}", "neither a variable nor a JSON"),
        ("%%map reviews --into out --schema '{'\n{review}", "--schema"),
        ("%%map reviews --schema Mood --labels a b --into out\n{review}", "not both"),
        ("%%map reviews --limit few\n{review}", "invalid int value: 'few'"),
        ("%%map reviews --limit -1\n{review}", "limit = -1"),
        ("%%map reviews --column review\n{review}", "has a column 'review' already"),
        ("%%map reviews --tools nothing --into out\n{review}", "no variable has that name"),
        ("%%map reviews --tools items --into out\n{review}", "tools"),
        ("%%map reviews --temperature 9\n{review}", "temperature = 9"),
    ],
)
def test_mistakes_are_explained_before_any_work(
    frames: InteractiveShell,
    said: Callable[[str], str],
    core: FakeCore,
    cell: str,
    complaint: str,
) -> None:
    frames.user_ns["out"] = "an earlier result"
    text = said(cell)
    assert complaint in text
    assert "Traceback" not in text
    assert core.requests == []
    assert frames.user_ns["out"] == "an earlier result"


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%map re", {"reviews"}),
        ("%%map ", {"items", "reviews"}),
        ("%%map reviews --sch", {"--schema"}),
        ("%%map reviews --schema Mo", {"Mood"}),
        ("%%map reviews --model d", {"demo"}),
        ("%%map reviews --into out\nIs it {re", {"review"}),
        ("%%map reviews --into out\nIs it {review} by {fir", {"first name"}),
        ("%%map reviews --into out\nIs it {first na", {"name"}),
        ("%%map items\n{", {"text"}),
        ("%%map reviews\n{{re", set()),
        ("%%map reviews\n{review} re", set()),
        ("%%map number\n{re", set()),
        ("%mlc ca", {"cache"}),
    ],
)
def test_completion(frames: InteractiveShell, text: str, offered: set[str]) -> None:
    frames.Completer.use_jedi = False
    found = set(frames.Completer.complete(line_buffer=text, cursor_pos=len(text))[1])
    assert found >= offered
    assert offered or "review" not in found


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("What is in {long}?", "long"),
        ("{short} {number} {arrow}", "arrow"),
        ("{polar}\n{long}", "polar"),
        ("Only {short} and {{long}}, {items} and {long.shape}, {number:>5}", None),
        ("{long[text]}, long, {missing}", None),
    ],
)
def test_a_chat_about_a_long_table_suggests_a_map(
    frames: InteractiveShell,
    said: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    named: str | None,
) -> None:
    asked = []
    monkeypatch.setattr(MLCMagics, "_ask", lambda self, text, given: asked.append(text))
    rows = {"text": [f"text {i}" for i in range(1_000)]}
    frames.user_ns |= {
        "long": pd.DataFrame(rows),
        "short": pd.DataFrame(rows).head(20),
        "polar": pl.DataFrame(rows),
        "arrow": pa.table(rows),
        "items": [rows] * 100,
        "missing": None,
    }
    suggested = said(f"%%chat\n{text}")
    assert len(asked) == 1
    if named is None:
        assert suggested == ""
    else:
        assert "the 1,000 rows" in suggested
        assert f"\n%%map {named} --into {named}_replies\n… {{text}} …\n" in suggested


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%%map reviews --tools tw", ["twice"]),
        ("%%map reviews --limit 2 --tools twice ", ["number_of", "twice"]),
        ("%%map reviews --tools twice --no", ["--no-cache"]),
        ("%%map reviews --tools twice --limit ", []),
    ],
)
def test_functions_are_offered_as_tools(line: str, offered: list[str]) -> None:
    functions = {"number_of": lambda text: len(text), "twice": lambda text: 2 * text}
    for function in functions.values():
        function.__module__ = "__main__"
    registry = EngineRegistry(functions)
    event = SimpleNamespace(line=line, text_until_cursor=line, symbol="")
    found = complete_map(registry, event)
    assert [name for name in found if offered or not name.startswith("-")] == offered


def test_help_says_all(said: Callable[[str], str]) -> None:
    assert "--labels" in said("%%map --help")
    assert "clear" in said("%mlc cache --help")


@pytest.mark.parametrize(("client", "waits"), [("page", False), ("console", True), ("batch", True)])
def test_the_cell_ends_with_its_table_where_nothing_shows_later(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, client: str, waits: bool
) -> None:
    monkeypatch.setattr(transformers, "client_of", lambda _: client)
    lines = ["get_ipython().run_cell_magic('map', 'df --into out', '{x}\\n')\n"]
    transformer = next(
        one for one in shell.input_transformers_post if type(one).__name__ == "CellTransformer"
    )
    assert any("settle()" in line for line in transformer(lines)) is waits


def test_a_map_runs_behind_its_cell(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, echo=True, pace_s=0.02),
        "rows = [{'text': f'row {i}'} for i in range(100_000)]; out = 'old'",
        "%%map rows --into out --no-cache\nSay {text}",
        "import asyncio\n"
        "there, running = 'out' in globals(), not _map.done()\n"
        "while _map.report.rows < 8: await asyncio.sleep(0)\n"
        "_map.stop(); table = await _map\n"
        "print(there, running, out is table, len(out), _map.report.state)\n"
        "print(any('row 7' in row['reply'] for row in out if row['reply']), out[-1]['error'])",
        "%%map rows --into out --no-cache --limit 3\nSay {text}",
        "print(len(await _map), _map.report.state, out == await _map)",
        "_engine.link.submit(_engine.link.terminate()).result()",
        "%%map rows --into out --no-cache\nSay {text}",
        errors=True,
    )
    assert "False True True 100000 stopped\nTrue Stopped: the map" in printed(notebook, 3)
    assert "3 done True" in printed(notebook, 5)
    shown = [o.get("data", {}) for o in notebook.cells[2].outputs]
    html = [data["text/html"] for data in shown if "text/html" in data]
    assert any("of 100,000 rows" in text for text in html)
    assert "No model is loaded" in printed(notebook, 7)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / "map" / "replies.sqlite"
    path.parent.mkdir(parents=True)
    cache = ReplyCache(path)
    for i in range(7):
        cache.put(bytes([i]), Reply("é" * 500_000, "stop"), "big" if i < 5 else "small\x1b[31m")
    cache.close()
    return path


@pytest.mark.parametrize("door", ["magic", "command"])
def test_the_cache_is_listed_and_cleared(
    kept: Path, door: str, said: Callable[[str], str], capsys: Any
) -> None:
    def cache(arguments: str) -> str:
        if door == "magic":
            return said(f"%mlc cache {arguments}")
        capsys.readouterr()
        cli.main(["cache", *(arguments.split() or ["list"])])
        return str(capsys.readouterr().out)

    text = cache("")
    assert "7 replies" in text
    assert "big: 5 replies, 5.0 MB" in text
    assert "small?[31m: 2 replies" in text
    assert "\x1b" not in text
    assert "2 replies" not in cache("list --model big").splitlines()[0]
    assert "has no replies of tiny" in cache("clear --model tiny")
    assert "5 replies are removed" in cache("clear --model big")
    assert kept.stat().st_size < 4_000_000
    assert "2 replies" in cache("list")
    assert "2 replies are removed" in cache("clear")
    assert "0 replies" in cache("list")
    kept.unlink()
    assert "no replies are kept" in cache("list")
    assert not kept.exists()


def test_a_file_of_something_else_is_refused(
    said: Callable[[str], str], tmp_path: Path, capsys: Any
) -> None:
    other = tmp_path / "other"
    other.write_text("no database")
    assert "it cannot be used as a cache" in said(f"%mlc cache clear --file {other}")
    assert cli.main(["cache", "clear", "--file", str(other)]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert other.read_text() == "no database"
    db = sqlite3.connect(tmp_path / "db")
    db.execute("CREATE TABLE replies (x)")
    db.close()
    assert cli.main(["cache", "clear", "--file", str(tmp_path / "db")]) == 2


def test_a_file_of_the_first_version_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = ReplyCache(path)
    cache.put(b"1", Reply("one", "stop"), "m")
    assert cache._db is not None
    cache._db.execute("ALTER TABLE replies DROP COLUMN model")
    cache._db.execute("PRAGMA user_version = 1")
    cache.close()
    cache = ReplyCache(path)
    assert cache.get(b"1") == Reply("one", "stop")
    cache.put(b"2", Reply("two", "stop"), "m")
    assert sorted((use.model, use.entries) for use in cache.usage()) == [("", 1), ("m", 1)]
    cache.close()

"""What an engine's log shows and hides, how it is bounded, and that it leaves `logging` alone."""

from __future__ import annotations

import ast
import gc
import io
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mlc_widget
from mlc_widget import AsyncKernelMLCEngine, MLCEngine
from mlc_widget.api import engine_log
from mlc_widget.api.engine_log import MOST_RECORDS, EngineLog, EngineLogRecord
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.log_text import SafeText, message_of
from mlc_widget.api.table.tool_calls import ToolCalls

CANARY = "canary"
LOGGER = logging.getLogger("mlc_widget.somewhere")


@pytest.fixture
def log() -> Iterator[EngineLog]:
    log = EngineLog()
    yield log
    log.close()


@pytest.fixture
def no_other_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process whose engines have all been terminated; those of other tests may live."""
    monkeypatch.setattr(engine_log, "_open", weakref.WeakValueDictionary())
    monkeypatch.setattr(logging.getLogger("mlc_widget"), "handlers", [])


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError(CANARY)

    __repr__ = __str__


def message(pattern: Any, *args: Any, error: BaseException | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    return message_of(logging.LogRecord("mlc_widget", 30, "x.py", 1, pattern, args, info))


@pytest.mark.parametrize(
    ("pattern", "args", "shown"),
    [
        ("%s", (CANARY,), "…"),
        ("%r and %s", ([CANARY], {CANARY: 1}), "… and …"),
        ("%.500s", (CANARY,), "…"),
        ("%(what)s", ({"what": CANARY},), "…"),
        ("%s", (Unprintable(),), "…"),
        ("%s", (BadRequestError(CANARY, param=CANARY),), "BadRequestError"),
        ("%s", (type(f"{CANARY} of a class", (Exception,), {})(),), "an exception"),
        ("%s", (b"canary",), "…"),
        ("%s", (Path(CANARY),), "…"),
        ("%s", (10**6000,), "…"),
        ("%d of %.1f, %s", (3, 2.0, None), "3 of 2.0, None"),
        ("%d", (CANARY,), "%d"),
        ("%s", (), "%s"),
        ("%s %s", (1,), "%s %s"),
        (Unprintable(), (), "…"),
        (ValueError(CANARY), (), "ValueError"),
        ("%s", (SafeText("said\x1b[2J\n\u202e"),), "said\\x1b[2J\\n\\u202e"),
    ],
)
def test_only_numbers_classes_and_safe_texts_are_shown(
    pattern: Any, args: tuple[Any, ...], shown: str
) -> None:
    assert message(pattern, *args) == shown


def test_an_error_is_shown_by_its_classes_and_our_lines() -> None:
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as first:
            ToolCalls._failed(None, CANARY, first)  # type: ignore[arg-type]
    except AttributeError as error:
        shown = message("a call of %s failed", CANARY, error=error)
    assert shown.startswith(
        "a call of … failed [AttributeError from KeyError at mlc_widget.api.table.tool_calls:"
    )
    assert CANARY not in shown


def test_a_long_message_is_cut() -> None:
    assert len(message("%s", SafeText("x" * 10**6))) == 500
    assert len(message("%.0f" * 10, *[1e308] * 10)) == 500


def test_all_log_calls_have_constant_patterns() -> None:
    """What is in the pattern itself is shown, so that no text may be formatted into it."""
    found = 0
    for file in Path(mlc_widget.__file__).parent.rglob("*.py"):
        source = file.read_text()
        for node in ast.walk(ast.parse(source)) if "getLogger" in source else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of = node.func.value
            if not isinstance(of, ast.Name) or of.id not in ("logger", "_log", "_logger"):
                continue
            if node.func.attr in ("debug", "info", "warning", "error", "exception", "critical"):
                found += 1
                assert isinstance(node.args[0], ast.Constant), f"{file}:{node.lineno}"
    assert found > 30


def test_the_loggers_of_the_package_are_heard(log: EngineLog) -> None:
    calls = SimpleNamespace(_report=SimpleNamespace(tool_errors=0))
    ToolCalls._failed(calls, CANARY, ValueError(CANARY))  # type: ignore[arg-type]
    LOGGER.error("%s", CANARY, extra={"request_id": "mine"})
    logging.getLogger("elsewhere").error("not ours")
    first, second = log.read()
    assert first.message == "The tool … failed; the model is told: …"
    assert (first.side, first.level, first.request_id) == ("notebook", "WARNING", None)
    assert first.logger == "mlc_widget.api.table.tool_calls"
    assert (second.level, second.message, second.request_id) == ("ERROR", "…", "mine")


def test_only_the_newest_are_kept(log: EngineLog) -> None:
    for number in range(MOST_RECORDS + 5):
        log.note(f"number {number}")
    kept = log.read()
    assert len(kept) == MOST_RECORDS
    assert (kept[0].message, kept[-1].message) == ("number 5", f"number {MOST_RECORDS + 4}")


def test_a_state_is_noted_when_it_changes(log: EngineLog) -> None:
    error = BadRequestError(CANARY)
    for state in ("idle", "loading", "loading", "ready"):
        log.note_state(state, None)
    for state in ("ready", "ready", "dead", "terminated"):
        log.note_state(state, error)
    assert [record.message.removeprefix("The engine's state: ") for record in log.read()] == [
        "loading.",
        "ready.",
        "ready, BadRequestError.",
        "dead, BadRequestError.",
        "terminated.",
    ]


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "text",
        {},
        [None],
        [{"time": "soon", "level": "INFO", "logger": "x", "message": "x"}],
        [{"time": 1e300, "level": "INFO", "logger": "x", "message": "x"}],
        [{"time": float("nan"), "level": "INFO", "logger": "x", "message": "x"}],
        [{"time": 1, "level": ["INFO"], "logger": "x", "message": "x"}],
        [{"time": 1, "level": "LOUD", "logger": "x", "message": "x"}],
        [{"time": 1, "level": "INFO", "logger": "x"}],
    ],
)
def test_what_is_no_record_of_a_worker_is_left_out(log: EngineLog, content: Any) -> None:
    good = EngineLogRecord(1.0, "notebook", "INFO", "x", "fine", "r").to_wire()
    log.take_all(content)
    log.take_all([good])
    assert log.read() == [EngineLogRecord(1.0, "worker", "INFO", "x", "fine", "r")]


def test_what_a_worker_sends_is_short_and_cannot_act_on_a_terminal(log: EngineLog) -> None:
    hostile = {"logger": "x" * 10**6, "message": "\x1b[2J" * 10**5, "requestId": "\n" * 10**5}
    log.take_all([{"time": 1, "level": "INFO", **hostile}])
    [record] = log.read()
    assert len(str(record)) < 1300
    assert str(record).isprintable()


def test_a_shared_worker_s_log_has_only_what_was_logged_for_its_client(log: EngineLog) -> None:
    other, own = EngineLog(own_only=True), EngineLog(own_only=True)
    try:
        LOGGER.warning("for nobody")
        import contextvars

        def answer() -> None:
            own.use()
            LOGGER.warning("for one")

        contextvars.Context().run(answer)
    finally:
        own.close()
        other.close()
    assert [record.message for record in own.read()] == ["for one"]
    assert other.read() == []
    assert [record.message for record in log.read()] == ["for nobody"]


@pytest.mark.usefixtures("no_other_log")
def test_the_user_s_handlers_and_levels_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    package, root = logging.getLogger("mlc_widget"), logging.getLogger()
    before = (package.level, package.propagate, list(package.handlers))
    last = io.StringIO()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(last))
    monkeypatch.setattr(root, "handlers", [])
    one, two = EngineLog(), EngineLog()
    assert (package.level, package.propagate) == before[:2]
    LOGGER.warning("printed %s", "once")  # as `logging` does where nothing is configured
    assert last.getvalue() == "printed once\n"
    own = io.StringIO()
    root.addHandler(logging.StreamHandler(own))
    LOGGER.warning("to the user's handler")
    assert last.getvalue() == "printed once\n"
    assert own.getvalue() == "to the user's handler\n"
    one.close()
    one.close()
    assert list(package.handlers) != before[2]
    two.close()
    assert (package.level, package.propagate, list(package.handlers)) == before


@pytest.mark.usefixtures("no_other_log")
def test_a_log_that_nobody_closes_is_not_kept_alive() -> None:
    kept = weakref.ref(EngineLog())
    gc.collect()
    assert kept() is None
    LOGGER.warning("for nobody")
    EngineLog().close()
    assert not logging.getLogger("mlc_widget").handlers


def refusals(engine: MLCEngine) -> list[tuple[str, str, str | None]]:
    """What an engine's log says of requests that were refused: level, error and id."""
    assert CANARY not in str(engine.logs())
    return [
        (record.level, record.message.rpartition(": ")[2], record.request_id)
        for record in engine.logs()
        if "refused before it was sent" in record.message
    ]


def test_a_request_that_is_refused_before_it_is_sent_is_in_the_log() -> None:
    hello = [{"role": "user", "content": CANARY}]
    with MLCEngine(runtime="scripted") as engine:
        chat: Any = engine.chat.completions
        completions: Any = engine.completions
        client: Any = engine.openai_client()
        for refused in (
            lambda: chat.create(messages=hello, temperature=7, request_id="mine"),
            lambda: chat.create(messages=[{"role": CANARY}]),
            lambda: chat.create(messages=hello, **{CANARY: 1}),
            lambda: chat.create(messages=hello, request_id=CANARY * 100),
            lambda: completions.create(prompt=CANARY, stream=CANARY),
            lambda: engine.embeddings.create(input={CANARY: 1}),  # type: ignore[arg-type]
            lambda: client.chat.completions.create(model="m", messages=hello, top_p=7),
            lambda: client.responses.create(model="m", input=CANARY, temperature=7),
        ):
            with pytest.raises(Exception, match=r"."):
                refused()
        assert refusals(engine) == [
            ("WARNING", "BadRequestError (temperature)", "mine"),
            ("WARNING", "BadRequestError (messages)", None),
            ("WARNING", "BadRequestError", None),
            ("WARNING", "BadRequestError (request_id)", None),
            ("WARNING", "BadRequestError (stream)", None),
            ("WARNING", "BadRequestError (input)", None),
            ("WARNING", "BadRequestError (top_p)", None),
            ("WARNING", "BadRequestError (temperature)", None),
        ]


async def test_an_engine_with_a_worker_notes_it_on_this_side() -> None:
    async with AsyncKernelMLCEngine(runtime="scripted") as engine:
        create: Any = engine.completions.create
        with pytest.raises(BadRequestError):
            await create(prompt=CANARY, max_tokens=CANARY)
        [record] = await engine.logs()
    assert (record.side, record.message) == (
        "notebook",
        "A request was refused before it was sent: BadRequestError (max_tokens)",
    )

"""Cells of a batch run are given what makes them wait; their values and errors stay theirs."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mlc_widget.api import batch_runs
from mlc_widget.api.batch_runs import settled, waiting_cell

SHOWN: dict[str, str | None] = {
    "1 + 1\n": "2",
    "1, 2\n": "(1, 2)",
    "*'ab', 'c'\n": "('a', 'b', 'c')",
    "(y := 5)\n": "5",
    "x = 'ü€😀'; ('é' +\n  x)  # a comment\n\n": "'éü€😀'",
    "x = 'a\x0cb\u2028c'\nlen(x)\n": "5",
    "1;\n": None,
    "1 ; \n": None,
    "x = 5\n": None,
    "for x in 'ab':\n    x\n": None,
    "import asyncio\nawait asyncio.sleep(0, 7)": "7",
    "(i for i in 'ab').__next__()": "'a'",
    "'''several\nlines'''": "'several\\nlines'",
    "lambda: (yield)": "<function",
    "%time 5": "5",
    "%%time\n5": "5",
    "%timeit -n1 -r1 5": None,
    "if True: 3": None,
    "# nothing": None,
    "": None,
}


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(colors="nocolor")
    InteractiveShell.clear_instance()


@pytest.fixture
def watched(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    """A shell that takes itself for one of a batch run."""
    monkeypatch.setattr(batch_runs, "client_of", lambda _: "batch")
    batch_runs._CellWatch(shell).running = False
    return shell


@pytest.mark.parametrize("cell", SHOWN)
def test_values_are_shown_as_without(watched: InteractiveShell, cell: str) -> None:
    with capture_output() as captured:
        result = watched.run_cell(cell, store_history=True)
    assert result.success
    shown = SHOWN[cell]
    if shown is None:
        assert captured.outputs == []
        assert "Out[" not in captured.stdout
    else:
        assert f"]: {shown}" in captured.stdout


@pytest.mark.parametrize("cell", ["def f(:\n", "x = '\n", "return 5\n", "1/0", "raise SystemExit"])
def test_errors_are_raised_as_without(
    shell: InteractiveShell, cell: str, request: pytest.FixtureRequest
) -> None:
    errors = []
    for _ in range(2):
        with capture_output():
            result = shell.run_cell(cell)
        errors.append(type(result.error_before_exec or result.error_in_exec))
        request.getfixturevalue("watched")
    assert errors[0] is errors[1] is not type(None)


async def test_a_cell_waits_for_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runs, "_LOOK_S", 0.001)
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    batch_runs.expect(future)
    cell = asyncio.create_task(settled("value"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not cell.done()
    future.set_result(None)
    assert await cell == "value"
    assert batch_runs._pending == set()


def test_a_nested_cell_is_left_alone() -> None:
    deep = ["(" * 10_000 + ")" * 10_000 + "\n"]
    assert waiting_cell(deep) == deep

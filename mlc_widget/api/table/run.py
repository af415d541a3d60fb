"""Runs a map, awaited or blocking, and puts its table together."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import (
    BadRequestError,
    MLCEngineError,
    ModelNotLoadedError,
    UnsupportedFieldError,
)
from mlc_widget.api.home_loop import INTERRUPT_TICK_S, HomeLoop
from mlc_widget.api.request_values import JSONDict
from mlc_widget.api.table.plan import MapPlan
from mlc_widget.api.table.progress_display import ProgressView
from mlc_widget.api.table.progress_view import open_progress_view
from mlc_widget.api.table.reply_cache import ReplyCache, open_cache
from mlc_widget.api.table.report import MapReport, MapRow, MapState
from mlc_widget.api.table.tables import Row
from mlc_widget.api.table.work import RowWork

_YIELD_S: Final = 0.004
"""How long the caller's loop is kept from other work, in seconds."""
_END: Final = object()
_STOPPED: Final = "Stopped: the map was stopped before this row was done."


async def _model(core: EngineCore, model_id: str | None) -> JSONDict:
    """The model that a map runs on. On the home loop.

    Raises:
        ModelNotLoadedError: It is not loaded, or none is.
        BadRequestError: Several are, and none is named.
    """
    models = await core.list_models()
    if not any(model_id in (None, model["id"]) for model in models):
        # It may be loading: a request waits for that, or says what is wrong.
        request = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1}
        await core.request("chat", request | ({"model": model_id} if model_id else {}))
        models = await core.list_models()
    named = [model for model in models if model_id in (None, model["id"])]
    if len(named) > 1:
        raise BadRequestError.several_are_loaded(model["id"] for model in named)
    if not named:
        raise ModelNotLoadedError.none_is_loaded()
    return named[0]


class _Checkpoint:
    """A point of a long computation at which the caller's loop may do other work."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def reach(self) -> None:
        """Yield to the loop if that was last done a while ago."""
        if time.monotonic() - self._last > _YIELD_S:
            await asyncio.sleep(0)
            self._last = time.monotonic()


class MapRun:
    """One map on one engine.

    Args:
        core: The engine's core.
        home: The loop that it runs on.
        plan: The checked arguments. The file of its cache is opened when the map begins.
    """

    def __init__(self, core: EngineCore, home: HomeLoop, plan: MapPlan) -> None:
        self._core, self._home, self._plan = core, home, plan
        self._cache: ReplyCache | None = None
        self._unfinished: list[tuple[int, Row]] = []
        self._view: ProgressView | None = None

    @contextlib.contextmanager
    def _running(
        self, model: Mapping[str, Any], loop: asyncio.AbstractEventLoop | None
    ) -> Iterator[tuple[RowWork, ProgressView]]:
        plan, report = self._plan, self._plan.report
        work = RowWork(self._core, self._home, plan, model, self._cache, loop)
        report.begin(plan.table.length)
        view = self._view or open_progress_view(plan, self._home)
        state: MapState = "failed"
        try:
            yield work, view
            state = "stopped" if report.stops and report.rows != report.total else "done"
        except MLCEngineError as error:
            if report.first_error is None:
                report.first_error = error.message
            raise
        finally:
            self._unfinished = work.cancel()
            report.end(state)
            view.end()

    @property
    def report(self) -> MapReport:
        """The counts, which can pause and stop it."""
        return self._plan.report

    def show(self) -> None:
        """Show the progress now, before the map begins: later, the cell may have ended."""
        self._view = open_progress_view(self._plan, self._home)

    def fail(self, error: BaseException) -> None:
        """Show why a map ended before its first row, if `show` was called."""
        report = self._plan.report
        if report.state != "waiting":
            return
        report.begin(self._plan.table.length)
        report.first_error = str(error)
        report.end("failed")
        if self._view is not None:
            self._view.end()

    def _close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    @property
    def _checks_first(self) -> bool:
        """Whether every prompt is checked before the first is sent, as rows can be read twice."""
        plan = self._plan
        return not plan.keeps_errors and plan.table.length is not None and bool(plan.prompt.columns)

    def _check_row(self, index: int, row: Row) -> None:
        try:
            self._plan.prompt.messages(row)
        except BadRequestError as error:
            error.add_note(f"This is about row {index} of the data.")
            raise

    # Awaited

    async def stream(self) -> AsyncGenerator[MapRow, None]:
        """The rows as they finish. Closing it ends the requests that run."""
        try:
            self._cache = open_cache(self._plan.cache)
            model = await self._home.wait(self._model)
            if self._checks_first:
                checkpoint = _Checkpoint()
                for index, row in enumerate(self._sync_rows()):
                    self._check_row(index, row)
                    await checkpoint.reach()
            with self._running(model, asyncio.get_running_loop()) as (work, view):
                pump = _pumped(work, self._plan.table.rows(), self._plan)
                async with contextlib.aclosing(pump):
                    async for made in pump:
                        view.update(made)
                        yield made
        finally:
            self._close()

    async def table(self) -> Any:
        """The whole result, of the kind that came in."""
        result = _Gathered(self._plan)
        async with contextlib.aclosing(self.stream()) as stream:
            async for row in stream:
                result.add(row)
        return result.table(self._unfinished)

    # Blocking

    def stream_blocking(self) -> Generator[MapRow, None, None]:
        """As `stream`."""
        try:
            self._cache = open_cache(self._plan.cache)
            model = self._home.wait_blocking(self._model)
            if self._checks_first:
                for index, row in enumerate(self._sync_rows()):
                    self._check_row(index, row)
            with self._running(model, None) as (work, view):
                for made in _pumped_blocking(work, self._sync_rows(), self._plan):
                    view.update(made)
                    yield made
        finally:
            self._close()

    def table_blocking(self) -> Any:
        """As `table`."""
        result = _Gathered(self._plan)
        with contextlib.closing(self.stream_blocking()) as stream:
            for row in stream:
                result.add(row)
        return result.table(self._unfinished)

    async def _model(self) -> JSONDict:
        """The model that this runs on, which must do what is asked. On the home loop."""
        model = await _model(self._core, self._wanted)
        if self._plan.labels is not None and model.get("label_probabilities") is False:
            raise UnsupportedFieldError(
                "probabilities: a server's log-probabilities may be those before a schema "
                "restricts the tokens; load the model in a kernel engine.",
                param="probabilities",
            )
        return model

    @property
    def _wanted(self) -> str | None:
        wanted: str | None = self._plan.shared.get("model")
        return wanted

    def _sync_rows(self) -> Iterator[Row]:
        rows = self._plan.table.rows()
        if isinstance(rows, AsyncIterator):
            raise BadRequestError(
                "data: a blocking engine cannot read an async iterator; give an ordinary "
                "iterator, or use an awaited engine.",
                param="data",
            )
        return rows


async def _pumped(
    work: RowWork, rows: Iterator[Row] | AsyncIterator[Row], plan: MapPlan
) -> AsyncGenerator[MapRow, None]:
    """Reads rows while there is room for them, and gives each as it finishes."""
    checkpoint = _Checkpoint()
    reading: asyncio.Task[Any] | None = None
    running: dict[concurrent.futures.Future[JSONDict], asyncio.Future[JSONDict]] = {}
    count, ended = 0, False

    async def following(source: AsyncIterator[Row]) -> Any:
        return await anext(source, _END)

    try:
        while not plan.report.stops:
            paused = plan.report.state == "paused"
            taken: Any = None
            if not ended and not paused and not work.full and reading is None:
                if isinstance(rows, AsyncIterator):
                    reading = asyncio.create_task(following(rows))
                else:
                    taken = next(rows, _END)
            elif reading is not None and not paused and reading.done():
                taken, reading = reading.result(), None
            if taken is _END:
                ended = True
            elif taken is not None:
                if not count and plan.table.columns is None:
                    plan.check_columns(list(taken))
                made = work.start(count, taken)
                count += 1
                if made is not None:
                    yield made
                await checkpoint.reach()
                continue
            for future in work.futures - running.keys():
                running[future] = asyncio.wrap_future(future)
            waiting: set[asyncio.Future[Any]] = {*running.values()}
            if reading is not None and not reading.done():
                waiting.add(reading)
            if not waiting:
                if ended:
                    return
                if paused:
                    await asyncio.sleep(INTERRUPT_TICK_S)
                continue
            # Waking regularly, so that the loop notices interrupts.
            await asyncio.wait(
                waiting, timeout=INTERRUPT_TICK_S, return_when=asyncio.FIRST_COMPLETED
            )
            for future in [future for future, wrapped in running.items() if wrapped.done()]:
                wrapped = running.pop(future)
                if not wrapped.cancelled():
                    wrapped.exception()  # the work raises that of the other future
                for made in work.finish(future):
                    yield made
    finally:
        if reading is not None:
            reading.cancel()
        for wrapped in running.values():
            wrapped.cancel()


def _pumped_blocking(
    work: RowWork, rows: Iterator[Row], plan: MapPlan
) -> Generator[MapRow, None, None]:
    count, ended = 0, False
    report = plan.report
    while not report.stops:
        while not (ended or work.full or report.stops or report.state == "paused"):
            row: Any = next(rows, _END)
            if row is _END:
                ended = True
                break
            if not count and plan.table.columns is None:
                plan.check_columns(list(row))
            made = work.start(count, row)
            count += 1
            if made is not None:
                yield made
        futures = work.futures
        if not futures:
            if ended:
                return
            if report.state == "paused":
                time.sleep(INTERRUPT_TICK_S)
            continue
        # Waking regularly to see whether it was stopped.
        done, _ = concurrent.futures.wait(
            futures, INTERRUPT_TICK_S, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            yield from work.finish(future)


class _Gathered:
    """The new columns of all rows, to be put into a table."""

    def __init__(self, plan: MapPlan) -> None:
        self._plan = plan
        self._keeps_rows = plan.table.length is None
        self._rows: dict[int, Row] = {}
        self._values: dict[int, Mapping[str, Any]] = {}
        self._errors: dict[int, str] = {}

    def add(self, row: MapRow) -> None:
        """Keep a row's new values."""
        self._values[row.index] = row.values
        if self._keeps_rows:
            self._rows[row.index] = row.row
        if row.error is not None:
            self._errors[row.index] = f"{type(row.error).__name__}: {row.error.message}"

    def table(self, unfinished: Sequence[tuple[int, Row]]) -> Any:
        """The table, in the order of the data.

        Args:
            unfinished: The rows that had begun when the map was stopped.
        """
        plan = self._plan
        if plan.report.state == "stopped":
            self._mark_the_rest(unfinished)
        count = len(self._values)
        columns: dict[str, tuple[list[Any], str | None]] = {
            name: ([self._values[i][name] for i in range(count)], kind)
            for name, kind in plan.schema.columns.items()
        }
        rows = [self._rows[i] for i in range(count)] if self._keeps_rows else []
        if self._errors:
            taken = plan.table.columns
            if taken is None:
                taken = list(dict.fromkeys(name for row in rows for name in row))
            texts = [self._errors.get(i) for i in range(count)]
            columns[plan.error_column(taken)] = (texts, "string")
        return plan.table.with_columns(rows, columns)

    def _mark_the_rest(self, unfinished: Sequence[tuple[int, Row]]) -> None:
        """All rows of a table are in the result; of an iterator, those that were read."""
        length = self._plan.table.length
        self._rows.update(unfinished)
        rest = [index for index, _ in unfinished] if length is None else range(length)
        nothing = dict.fromkeys(self._plan.schema.columns)
        for index in rest:
            if index not in self._values:
                self._values[index] = nothing
                self._errors[index] = _STOPPED

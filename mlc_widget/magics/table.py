"""`%%map`: a map that runs behind its cell, and puts its table into a variable."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from IPython.core.error import UsageError

from mlc_widget.api import batch_runs
from mlc_widget.api.home_loop import wait_ticking
from mlc_widget.api.requests import check_sampling
from mlc_widget.magics.parsing import sampling_fields
from mlc_widget.magics.tools import named_tools
from mlc_widget.widget.describe import ROWS
from mlc_widget.widget.prompt import whole_variables

if TYPE_CHECKING:
    from mlc_widget.api.linked_engine import LinkedEngine
    from mlc_widget.api.table.report import MapReport
    from mlc_widget.api.table.run import MapRun

_SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
)
_TABLES: Final = ("DataFrame", "Table")
_PLAIN: Final = {kind.__name__: kind for kind in (str, int, float, bool)}


class RunningMap:
    """The map of a `%%map` cell, which is the variable `_map`.

    ``await _map`` gives the table once it is done.

    Args:
        run: What runs.
        done: Called with the table, on a thread of its own.
    """

    def __init__(self, run: MapRun, done: Callable[[Any], object]) -> None:
        self._run, self._done = run, done
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def start(self) -> None:
        """Show the progress below the running cell, and begin."""
        self._run.show()
        batch_runs.expect(self._future)
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._work,), name="mlc_widget map", daemon=True
        ).start()

    def _work(self) -> None:
        try:
            table = self._run.table_blocking()
            self._done(table)
        except BaseException as error:
            self._run.fail(error)
            self._future.set_exception(error)
        else:
            self._future.set_result(table)

    @property
    def report(self) -> MapReport:
        """Its counts and times."""
        return self._run.report

    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def pause(self) -> None:
        """Send no more rows until `resume`."""
        self.report.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self.report.resume()

    def stop(self) -> None:
        """Stop it; the rows that are done are kept."""
        self.report.stop()

    def result(self, timeout: float | None = None) -> Any:
        """Block the calling thread until it has ended, and return the table.

        Raises:
            TimeoutError: It has not ended after `timeout` seconds; it continues.
            MLCEngineError: What ended it.
        """
        return self._future.result(timeout)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            return await wait_ticking(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:  # the cell that waits was interrupted, and the map with it
            self.stop()
            raise

    def _last_text(self) -> str:
        return f"map: {self.report}"

    def __repr__(self) -> str:
        return f"<map: {self.report}>"


def table_names(namespace: Mapping[str, Any]) -> list[str]:
    """Variables that hold a table, or a list of dicts."""
    return sorted(
        name for name, value in namespace.items() if not name.startswith("_") and _is_table(value)
    )


def column_names(value: Any) -> list[str]:
    """The columns of a table, or the keys of the first dict of a list."""
    if isinstance(value, list):
        return [str(key) for key in value[0]] if _is_table(value) else []
    if not _is_table(value):
        return []
    names = getattr(value, "column_names", None)  # pyarrow's
    return [str(name) for name in (value.columns if names is None else names)]


def _is_table(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping)
    return type(value).__name__ in _TABLES and type(value).__module__.partition(".")[0] in (
        "pandas",
        "polars",
        "pyarrow",
        "modin",
    )


def map_suggestion(text: str, namespace: Mapping[str, Any]) -> str:
    """What to say about a message with frames of which the model sees a part; else nothing.

    Args:
        text: The message, with names in braces.
        namespace: The notebook's variables.
    """
    for name in whole_variables(text):
        value: Any = namespace.get(name)
        if isinstance(value, list) or not _is_table(value) or len(value) <= ROWS:
            continue
        column = next(iter(column_names(value)), "column")
        return (
            f"The model sees only the first of the {len(value):,} rows of {name}. To ask about "
            f"each row, run a cell such as\n%%map {name} --into {name}_replies\n"
            f"… {{{column}}} …"
        )
    return ""


def data_of(given: argparse.Namespace, namespace: Mapping[str, Any]) -> Any:
    """The table that the magic names, as it is now.

    Raises:
        UsageError: There is no such variable.
    """
    if given.data not in namespace:
        known = ", ".join(table_names(namespace)) or "none"
        raise UsageError(f"%%map {given.data}: no variable has that name. Tables: {known}.")
    value = namespace[given.data]
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "copy"):
        return value.copy()  # later cells may change it
    return list(value) if isinstance(value, list) else value


def options_of(given: argparse.Namespace, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `map` that the magic's flags say.

    Raises:
        UsageError: One of them is wrong.
        BadRequestError: A function cannot be a tool, or a sampling field is invalid.
    """
    options: dict[str, Any] = {
        name: getattr(given, name) for name in _SAMPLING if getattr(given, name) is not None
    }
    if given.sampling:
        options |= check_sampling(sampling_fields(given.sampling), [*_SAMPLING, "seed"])
    if given.labels and given.schema:
        raise UsageError("%%map: give --labels or --schema, not both.")
    if given.labels:
        options["schema"] = Literal[tuple(given.labels)]
    elif given.schema:
        options["schema"] = _schema(given.schema, namespace)
    options |= {"tools": named_tools(given.tools, namespace)} if given.tools else {}
    options |= {"cache": given.cache} if given.cache else {}
    options |= {"probabilities": True} if given.probabilities else {}
    options |= {"cache": False} if given.no_cache else {}
    options |= {"on_error": "raise"} if given.raise_errors else {}
    for name in ("system", "limit", "seed", "model"):
        if getattr(given, name) is not None:
            options[name] = getattr(given, name)
    return options | ({"into": given.column} if given.column else {})


def _schema(text: str, namespace: Mapping[str, Any]) -> Any:
    import json

    if text in namespace:
        return namespace[text]
    if text in _PLAIN:
        return _PLAIN[text]
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"--schema: {error}") from None
    raise UsageError(
        f"--schema {text}: neither a variable nor a JSON schema. Define it first, such as "
        f'{text if text.isidentifier() else "Label"} = Literal["good", "bad"].'
    )


def check_into(name: str | None) -> None:
    """Refuse a name that no variable can have.

    Raises:
        UsageError: It is none.
    """
    import keyword

    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise UsageError(f"--into {name}: give a valid name for a variable.")


def make_run(engine: LinkedEngine, prompt: str, data: Any, options: dict[str, Any]) -> MapRun:
    """The map, checked.

    Raises:
        BadRequestError: An argument is wrong.
    """
    from mlc_widget.api.table.options import MAP_DEFAULTS

    return engine._map_run(prompt, data, {**MAP_DEFAULTS, **options})  # type: ignore[typeddict-item]

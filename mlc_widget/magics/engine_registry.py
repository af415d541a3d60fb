"""The engines of a notebook by their names; one of them is the current one."""

from __future__ import annotations

import inspect
import keyword
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, get_origin

from IPython.core.error import UsageError

if TYPE_CHECKING:
    from mlc_widget.api.linked_engine import LinkedEngine
    from mlc_widget.magics.conversation import Conversation
    from mlc_widget.mcp_client import MCPServer

DEFAULT: Final = "_engine"
"""The name of a new engine if none is given."""


class EngineRegistry:
    """Finds and makes engines. Their names are variables of the notebook.

    The current engine is the one that a magic used last or, before that, the only one.

    Args:
        namespace: The notebook's variables.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._current: str | None = None
        self.servers: dict[str, MCPServer] = {}
        """The MCP servers of `%%chat`, by their names."""
        self._conversations: weakref.WeakKeyDictionary[LinkedEngine, Conversation]
        self._conversations = weakref.WeakKeyDictionary()
        self._asides: weakref.WeakKeyDictionary[LinkedEngine, weakref.WeakSet[Conversation]]
        self._asides = weakref.WeakKeyDictionary()
        self._made: weakref.WeakKeyDictionary[LinkedEngine, dict[str, Any]]
        self._made = weakref.WeakKeyDictionary()
        """The engines that were made here, with what they were made with."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """The notebook's variables."""
        return self._namespace

    def engines(self) -> dict[str, LinkedEngine]:
        """The engines that have not been terminated, each under one name."""
        found: dict[int, tuple[str, Any]] = {}
        for name, value in list(self._namespace.items()):
            if not _is_engine(value) or value.state == "terminated":
                continue
            # `_` and `_12` are what cells gave back: any other name is better.
            known = found.get(id(value))
            if known is None or _is_output(known[0]):
                found[id(value)] = (name, value)
        return {name: value for name, value in found.values() if not _is_output(name)}

    def names(self) -> list[str]:
        """The names of the engines."""
        return sorted(self.engines())

    def find(self, name: str | None) -> LinkedEngine | None:
        """The engine of that name, or the current one; it becomes the current one.

        Raises:
            UsageError: the name is not an engine's, or it is not clear which engine is meant.
        """
        engines = self.engines()
        if name is None:
            if self._current in engines:
                name = self._current
            elif len(engines) > 1:
                known = ", ".join(sorted(engines))
                raise UsageError(f"There are several engines: choose one with --to ({known}).")
            else:
                name = next(iter(engines), None)
            if name is None:
                return None
        elif name not in engines:
            value = self._namespace.get(name)
            for other, engine in engines.items():  # an engine with several names
                if engine is value:
                    name = other
                    break
            else:
                raise self._unknown(name, engines)
        self._current = name
        return engines[name]

    @staticmethod
    def _unknown(name: str, engines: Mapping[str, Any]) -> UsageError:
        known = f"there are {', '.join(sorted(engines))}" if engines else "there is none"
        return UsageError(f"--to {name}: no engine of that name; {known}. {_LOAD}")

    def need(self, name: str | None) -> LinkedEngine:
        """As `find`, but there must be one.

        Raises:
            UsageError: there is none; the message says how to load a model.
        """
        engine = self.find(name)
        if engine is None:
            raise UsageError(f"No model is loaded. {_LOAD}")
        return engine

    def need_model(self, name: str | None) -> LinkedEngine:
        """As `need`, but a model must be loaded or loading, or its load must have failed.

        Raises:
            UsageError: there is none; the message says how to load a model.
        """
        engine = self.need(name)
        snapshot = engine.link.snapshot
        nothing = snapshot.model_id is None and snapshot.error is None
        if nothing and snapshot.state not in ("starting", "loading"):
            raise UsageError(f"No model is loaded. {_LOAD}")
        return engine

    def need_one_model(self, name: str | None) -> LinkedEngine:
        """As `need_model`, but no more than one model may be loaded or loading.

        Raises:
            UsageError: there is none, or several; the message says what to do.
        """
        engine = self.need_model(name)
        if len(names := models_of(engine)) > 1:
            raise UsageError(
                "Several models are loaded: name the one that answers with --model "
                f"({', '.join(names)})."
            )
        return engine

    def make(self, name: str | None, **options: Any) -> LinkedEngine:
        """Make an engine under a name; it becomes the current one.

        Args:
            name: The name of its variable; None for the usual one.
            options: Those of a worker or, with a ``url``, those of an engine on that server.

        Raises:
            UsageError: the name is not an identifier, or is another variable's.
        """
        name = name or DEFAULT
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(f"--to {name}: give a valid name for a variable.")
        if name in self._namespace and not _is_engine(self._namespace[name]):
            kind = type(self._namespace[name]).__name__
            raise UsageError(
                f"--to {name}: a variable has this name already ({kind}); give another name."
            )
        engine = _make_engine(options)
        self._made[engine] = options
        self._namespace[name] = engine
        self._current = name
        return engine

    def conversation(self, engine: LinkedEngine, *, new: bool = False) -> Conversation:
        """The conversation that `%%chat` has with an engine."""
        known = self._conversations.get(engine)
        if known is None or new:
            if known is not None:
                known.leave()
            known = self._conversations[engine] = self._converse(engine)
        return known

    def replace(self, engine: LinkedEngine, options: dict[str, Any]) -> None:
        """End an engine that was made here, and make another under its name."""
        name = self.name_of(engine)
        for conversation in self.spoken(engine):
            conversation.leave()
        engine.link.submit(engine.link.terminate())
        self.make(name, **options)

    def name_of(self, engine: LinkedEngine) -> str:
        """An engine's name."""
        return next(name for name, known in self.engines().items() if known is engine)

    def options_of(self, engine: LinkedEngine) -> dict[str, Any] | None:
        """What an engine was made with, if it was made here; None if the user made it."""
        return self._made.get(engine)

    def aside(self, engine: LinkedEngine) -> Conversation:
        """A conversation of its own, for one question."""
        conversation = self._converse(engine)
        self._asides.setdefault(engine, weakref.WeakSet()).add(conversation)
        return conversation

    def _converse(self, engine: LinkedEngine) -> Conversation:
        from mlc_widget.magics.conversation import Conversation

        kept = weakref.ref(engine)  # the conversation must not keep the engine alive

        def name_of() -> str | None:
            """The engine's name, where a magic that gives none could mean another engine."""
            engines = self.engines()
            names = (name for name, known in engines.items() if known is kept())
            return next(names, None) if len(engines) > 1 else None

        return Conversation(engine, name_of)

    def spoken(self, engine: LinkedEngine) -> list[Conversation]:
        """The conversations with an engine."""
        known = self._conversations.get(engine)
        return [*([] if known is None else [known]), *self._asides.get(engine, ())]

    def model_names(self) -> list[str]:
        """Models that can be named: built in, to be downloaded by name, or loaded."""
        from mlc_widget.models.inventory import model_choices

        return sorted({*model_choices(), *self.loaded_names()})

    def loaded_names(self) -> list[str]:
        """Models that are loaded or loading."""
        return sorted({m for engine in self.engines().values() for m in models_of(engine)})

    def schema_names(self) -> list[str]:
        """Variables that hold a mapping."""
        return sorted(
            name
            for name, value in self._namespace.items()
            if isinstance(value, Mapping) and not name.startswith("_")
        )

    def row_schema_names(self) -> list[str]:
        """Variables that hold a type for `%%map`: a class of the notebook, a Literal, a mapping."""
        return sorted(
            name
            for name, value in self._namespace.items()
            if not name.startswith("_")
            and (
                isinstance(value, Mapping)
                or get_origin(value) is not None
                or (isinstance(value, type) and value.__module__ == "__main__")
            )
        )

    def function_names(self) -> list[str]:
        """Variables that hold a function that was defined in the notebook."""
        return sorted(
            name
            for name, value in self._namespace.items()
            if inspect.isfunction(value)
            and value.__module__ == "__main__"
            and not name.startswith("_")
        )


_LOAD: Final = "Load a model first, such as with `%mlc load demo`."


def models_of(engine: LinkedEngine) -> Sequence[str]:
    """The models that are loaded or loading in an engine."""
    return engine.link.snapshot.models


def _make_engine(options: dict[str, Any]) -> LinkedEngine:
    if "url" in options:
        from mlc_widget.server_engine.engines import AsyncServerMLCEngine

        return AsyncServerMLCEngine(**options)
    from mlc_widget.proxy.engines import AsyncKernelMLCEngine

    return AsyncKernelMLCEngine(**options)


def _is_engine(value: Any) -> bool:
    from mlc_widget.api.linked_engine import LinkedEngine

    return isinstance(value, LinkedEngine)


def _is_output(name: str) -> bool:
    return name.strip("_") == "" or (name.startswith("_") and name[1:].isdigit())

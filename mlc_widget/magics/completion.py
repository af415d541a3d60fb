"""Tab completion of the magics: commands, flags, models, engines and variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mlc_widget.magics.parsing import chat_parser, flags, map_parser, mlc_parser, subcommands

if TYPE_CHECKING:
    from mlc_widget.magics.engine_registry import EngineRegistry


def complete_mlc(registry: EngineRegistry, event: Any) -> list[str]:
    """What may follow in a line of `%mlc`."""
    words, current = _words(event)
    commands = subcommands(mlc_parser())
    if not words:
        return _starting(current, commands)
    command = commands.get(words[0])
    if command is None:
        return []
    if current.startswith("-"):
        return _starting(current, flags(command))
    after = words[-1]
    if after == "--to":
        return _starting(current, registry.names())
    if words[0] == "load" and not after.startswith("--"):
        return _starting(current, registry.model_names())
    models = registry.loaded_names if words[0] == "stats" else registry.model_names
    return _starting(current, models()) if after == "--model" else []


def complete_chat(registry: EngineRegistry, event: Any) -> list[str]:
    """What may follow in the line of `%%chat`."""
    words, current = _words(event)
    if "\n" in event.line:
        return []
    values = _flag_values(registry, words, current, registry.schema_names)
    return _starting(current, flags(chat_parser()) if values is None else values)


def complete_map(registry: EngineRegistry, event: Any) -> list[str]:
    """What may follow in `%%map`: frames and flags in its line, columns in braces below it."""
    from mlc_widget.magics.table import table_names

    if "\n" in event.line:
        return _columns(registry, event)
    words, current = _words(event)
    if not words and not current.startswith("-"):
        return _starting(current, table_names(registry.variables))
    values = _flag_values(registry, words, current, registry.row_schema_names)
    return _starting(current, flags(map_parser()) if values is None else values)


def _columns(registry: EngineRegistry, event: Any) -> list[str]:
    """The columns that an open brace of a template may name."""
    from mlc_widget.magics.table import column_names

    data = registry.variables.get(next(iter(event.line.partition("\n")[0].split()[1:2]), ""))
    typed, brace, field = event.text_until_cursor.rpartition("{")
    if not brace or "}" in field or typed.endswith("{"):
        return []
    # IPython replaces the last word only, of a name such as `first name`.
    kept = len(field) - len(event.symbol)
    return [name[kept:] for name in _starting(field, column_names(data)) if kept >= 0]


def _flag_values(
    registry: EngineRegistry, words: list[str], current: str, schemas: Callable[[], Iterable[str]]
) -> Iterable[str] | None:
    """What may follow the flags of `%%chat` and `%%map`; None where a flag may follow."""
    named = {"--model": registry.model_names, "--to": registry.names, "--schema": schemas}
    if words and words[-1] in named:
        return named[words[-1]]()
    return registry.function_names() if _names_tools(words, current) else None


def _names_tools(words: list[str], current: str) -> bool:
    """Whether the word that is being typed is one of ``--tools``."""
    flag = next((word for word in reversed(words) if word.startswith("--")), "")
    return flag == "--tools" and not current.startswith("-")


def _words(event: Any) -> tuple[list[str], str]:
    """The whole words after the magic, and the one that is being typed."""
    typed = event.text_until_cursor.split()[1:]
    if typed and not event.text_until_cursor[-1].isspace():
        return typed[:-1], typed[-1]
    return typed, ""


def _starting(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]

"""What each row is asked: from a template, a function, or a list of messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_messages import content, messages
from mlc_widget.api.request_values import JSONDict, bad, string
from mlc_widget.api.table.cells import plain
from mlc_widget.api.table.template import Template

Row: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = (
    str | Callable[[dict[str, Any]], str | Sequence[Mapping[str, Any]] | None]
) | Sequence[Mapping[str, Any]]


class RowPrompt(Protocol):
    """Makes the messages of each row."""

    columns: frozenset[str] | None
    """The columns that it names; None if that is not known, as of a function."""

    def messages(self, row: Row) -> list[JSONDict] | None:
        """The row's messages, checked; None if the row has nothing to ask about.

        Raises:
            BadRequestError: They cannot be made, or are no valid messages.
        """


def read_prompt(prompt: Any, system: str | None) -> RowPrompt:
    """Check the arguments ``prompt`` and ``system`` of a map.

    Raises:
        BadRequestError: One of them is wrong.
    """
    first = [] if system is None else [{"role": "system", "content": string("system", system)}]
    if isinstance(prompt, str):
        return _Templates(first, [({"role": "user"}, Template(prompt, "prompt"))])
    if callable(prompt):
        return _Function(first, prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray):
        checked = messages("prompt", prompt)
        _one_system(first, checked)
        templates = []
        for i, message in enumerate(checked):
            text = content(f"prompt[{i}].content", message.pop("content") or "")
            templates.append((message, Template(text, f"prompt[{i}].content")))
        return _Templates(first, templates)
    raise bad("prompt", prompt, "give a template with {column}, a function, or messages.")


def _one_system(first: list[JSONDict], given: Sequence[Mapping[str, Any]]) -> None:
    if first and any(message.get("role") in ("system", "developer") for message in given):
        raise bad("system", first[0]["content"], "the messages have a system message already.")


class _Templates:
    def __init__(self, first: list[JSONDict], templates: list[tuple[JSONDict, Template]]) -> None:
        self._first, self._templates = first, templates
        self.columns: frozenset[str] | None = frozenset().union(
            *(template.columns for _, template in templates)
        )
        if not self.columns:
            raise BadRequestError(
                "prompt: it names no column, so it would be the same for every row; write the "
                "name of a column in braces, such as {text}.",
                param="prompt",
            )

    def messages(self, row: Row) -> list[JSONDict] | None:
        if all(plain(row.get(column)) is None for column in self.columns or ()):
            return None
        filled = [{**message, "content": t.fill(row)} for message, t in self._templates]
        return messages("messages", [*self._first, *filled])


class _Function:
    def __init__(self, first: list[JSONDict], function: Callable[[dict[str, Any]], Any]) -> None:
        self._first, self._function = first, function
        self.columns: frozenset[str] | None = None

    def messages(self, row: Row) -> list[JSONDict] | None:
        try:
            made = self._function({name: plain(value) for name, value in row.items()})
        except Exception as error:
            text = f"prompt: the function raised {type(error).__name__}: {error}"
            raise BadRequestError(text, param="prompt") from error
        if made is None:
            return None
        if inspect.iscoroutine(made):
            made.close()
            raise BadRequestError(
                "prompt: give an ordinary function, not an async one.", param="prompt"
            )
        if isinstance(made, str):
            return messages("messages", [*self._first, {"role": "user", "content": made}])
        if not isinstance(made, Sequence):
            raise bad("prompt", made, "the function must return a text, messages or None.")
        _one_system(self._first, [m for m in made if isinstance(m, Mapping)])
        return messages("messages", [*self._first, *made])

"""Reads the `history` of a chat: messages, an export, or a notebook that has a transcript."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import CHAT_FIELDS, JSONDict
from mlc_widget.widget.state import Message
from mlc_widget.widget.title import check_title
from mlc_widget.widget.transcript import CHAT_MIME

History: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path
"""Messages in OpenAI's shape, what ``chat.export("json")`` gave, or the path of an exported
``.json`` or of a notebook."""

MAX_BYTES: Final = 64 * 2**20
"""The largest file of a conversation that is read."""
_REMEDY = (
    'give messages ([{"role": "user", "content": …}, …]), what chat.export("json") gave, or the '
    "path of a .json or .ipynb file"
)


class Conversation(NamedTuple):
    """An earlier conversation: its system prompt, the messages after that, and its title."""

    system: str | None = None
    messages: tuple[Message, ...] = ()
    title: str = ""


NOTHING_SAID: Final = Conversation()


def read_history(history: History) -> Conversation:
    """Read an earlier conversation.

    Raises:
        BadRequestError: A message or the file is invalid; the error names it and the remedy.
    """
    title, said = _read(history) if history else ("", [])
    given = CHAT_FIELDS["messages"]("history", said) if said else []
    system = None
    if given and given[0]["role"] == "system":
        system = _text("history[0]", given.pop(0))
    called = {
        call["id"]: call["function"]["name"]
        for message in given
        for call in message.get("tool_calls") or ()
    }
    found: list[Message] = []
    for number, message in enumerate(given):
        found.append(
            Message(
                id=uuid.uuid4().hex,
                role=message["role"],
                text=_text(f"history[{number}]", message),
                parent=found[-1].id if found else None,
                tool_calls=tuple(message.get("tool_calls") or ()),
                tool_call_id=message.get("tool_call_id") or "",
                name=called.get(message.get("tool_call_id") or "", ""),
            )
        )
    return Conversation(system, tuple(found), title)


def _read(history: History) -> tuple[str, list[Any]]:
    """The title and the unchecked messages."""
    title = ""
    if isinstance(history, str | Path):
        history = _read_text(history)
    if isinstance(history, Mapping):
        title = check_title(history.get("title"))
        history = history.get("messages", ())
    if isinstance(history, str) or not isinstance(history, Sequence):
        raise bad("history", history, f"{_REMEDY}.")
    return title, list(history)


def read_saved(path: str | Path) -> JSONDict:
    """The last conversation in a file: an export in JSON, or a notebook that shows a chat.

    Raises:
        BadRequestError: The file cannot be read, or it has no conversation.
    """
    shown = str(path) if isinstance(path, Path) else path
    try:
        file = Path(path).expanduser()
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)  # a device does not tell its size
        if len(data) > MAX_BYTES:
            raise bad("history", shown, f"it is larger than {MAX_BYTES:,} bytes; {_REMEDY}.")
        text = data.decode()
    except BadRequestError:
        raise
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else error.strerror
        raise bad("history", shown, f"{why}; {_REMEDY}.") from None
    except (RuntimeError, TypeError, ValueError) as error:  # an unknown home, no path, NUL
        raise bad("history", shown, f"{error}; {_REMEDY}.") from None
    return _decoded(str(file), text)


def _read_text(given: str | Path) -> JSONDict:
    """An export's text, or the text of a file."""
    if isinstance(given, Path) or not given.lstrip().startswith(("{", "[")):
        return read_saved(given)
    return _decoded("history", given)


def _decoded(name: str, text: str) -> JSONDict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"{name}: not JSON ({error}); {_REMEDY}.", param="history") from None
    if isinstance(found, list):
        return {"messages": found}
    if not isinstance(found, dict):
        raise BadRequestError(f"{name}: it contains no conversation; {_REMEDY}.", param="history")
    if "cells" in found:
        try:
            chats = [chat for chat in _chats_in(found) if chat.get("messages")]
        except (AttributeError, TypeError):
            raise BadRequestError(f"{name}: not a notebook; {_REMEDY}.", param="history") from None
        if not chats:
            raise BadRequestError(f"{name}: this notebook shows no chat.", param="history")
        return chats[-1]
    return found


def _chats_in(notebook: JSONDict) -> Iterator[JSONDict]:
    """The conversations in a notebook, as they follow each other."""
    exported = notebook.get("metadata", {}).get(CHAT_MIME)
    if isinstance(exported, dict):
        yield exported
    for cell in notebook["cells"]:
        yield from chats_of_outputs(cell)


def chats_of_outputs(cell: JSONDict) -> Iterator[JSONDict]:
    """The conversations in a cell's outputs."""
    for output in cell.get("outputs", ()):
        chat = output.get("data", {}).get(CHAT_MIME)
        if isinstance(chat, dict):
            yield chat


def _text(param: str, message: JSONDict) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if part.get("type") == "text"]
        if len(parts) != len(content):
            raise BadRequestError(f"{param}: a chat can show only text parts.", param=param)
        return "".join(parts)
    return content or ""

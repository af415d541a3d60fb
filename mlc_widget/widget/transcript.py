"""A conversation as a document: Markdown for readers, JSON for programs, a notebook for both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_request import openai_message
from mlc_widget.widget.safe_markdown import (
    code_block,
    plain,
    quoted,
    safe_markdown,
    without_headings,
)
from mlc_widget.widget.state import Message

ExportFormat: TypeAlias = Literal["md", "json", "ipynb"]
CHAT_MIME: Final = "application/vnd.mlc-widget.chat+json"
"""The MIME type of the conversation as JSON, for `history.read_history`."""


class Shown(NamedTuple):
    """What a document has: messages, the system prompt, the model, a given title, settings."""

    messages: Sequence[Message]
    system: str | None
    model: str
    title: str = ""
    settings: Mapping[str, Any] | None = None


def conversation(shown: Shown) -> JSONDict:
    """A conversation as JSON: ``{"version", "model", "title", "messages", "settings"}``.

    The messages are in OpenAI's shape. There is no title, and there are no settings, if none were
    given.
    """
    messages, system, model, title, settings = shown
    shaped = [openai_message(message) for message in messages if _says(message)]
    if system:
        shaped.insert(0, {"role": "system", "content": system})
    named = {"title": title} if title else {}
    chosen = {} if settings is None else {"settings": dict(settings)}
    return {"version": 1, "model": model, **named, "messages": shaped, **chosen}


def markdown(shown: Shown, *, headings: bool = True) -> str:
    """A conversation as Markdown that is inert in every reader.

    Without `headings`, the title and those of the replies become bold lines, as in a notebook's
    output.
    """
    messages, system, model, title, _ = shown
    parts = [] if not title else [f"# {plain(title)}" if headings else f"**{plain(title)}**"]
    parts += [] if not system else [f"**System:** {plain(system)}"]
    for message in messages:
        if message.role == "user":
            parts += ["**You**", quoted(safe_markdown(message.text)), _attached(message)]
        elif message.role == "assistant":
            parts += [f"**{plain(_short(model)) or 'Model'}**", *_reply(message, headings)]
        elif message.role == "tool":
            parts += [f"**{plain(message.name) or 'Tool'}**", code_block(message.text)]
    return "\n\n".join(part for part in parts if part)


def export(shown: Shown, *, as_format: str, path: str | Path | None) -> str:
    """Export a conversation as text, and write it to a file if `path` is given.

    Raises:
        BadRequestError: the format is unknown, or `path` cannot be a path.
        OSError: the file cannot be written.
    """
    if as_format not in get_args(ExportFormat):
        known = ", ".join(get_args(ExportFormat))
        raise bad("format", as_format, f"give one of {known}.")
    if as_format == "md":
        text = markdown(shown) + "\n"
    elif as_format == "json":
        text = json.dumps(conversation(shown), indent=2, ensure_ascii=False) + "\n"
    else:
        text = json.dumps(_notebook(shown), indent=1, ensure_ascii=False) + "\n"
    if path is not None:
        _write(path, text)
    return text


def _write(path: str | Path, text: str) -> None:
    data = text.encode(errors="replace")  # half a character, as "?"
    try:
        Path(path).expanduser().write_bytes(data)
    except (RuntimeError, TypeError, ValueError) as error:  # NUL, an unknown home
        raise bad("path", path, f"cannot be written: {error}.") from None


def _notebook(shown: Shown) -> JSONDict:
    """A notebook with a Markdown cell per message, and the conversation in its metadata."""
    cells: list[JSONDict] = []
    for number, message in enumerate(shown.messages):
        part = Shown([message], None, shown.model) if number else shown._replace(messages=[message])
        source = markdown(part).splitlines(keepends=True)
        cells.append(
            {"cell_type": "markdown", "id": f"message-{number}", "metadata": {}, "source": source}
        )
    return {
        "cells": cells,
        "metadata": {CHAT_MIME: conversation(shown)},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _attached(message: Message) -> str:
    """A line that names what a question had with it."""
    named = [f"{plain(item.name)} ({len(item.text):,} characters)" for item in message.attachments]
    return f"*With {', '.join(named)}*" if named else ""


def _reply(message: Message, headings: bool) -> list[str]:
    text = code_block(message.text, "json") if message.json else safe_markdown(message.text)
    parts = [text if headings else without_headings(text)]
    parts += [_call(call) for call in message.tool_calls]
    if message.status in ("queued", "running"):
        parts.append("*…*")
    else:
        parts += [f"*{plain(sentence)}*" for sentence in ending(message)]
    return parts


def plain_text(message: Message) -> str:
    """A reply as plain text: its words, its tool calls, and how it ended."""
    calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in message.tool_calls]
    return "\n".join(part for part in (message.text, *calls, *ending(message)) if part)


def ending(message: Message) -> list[str]:
    """A note on how a reply ended, if not as usual; js/ has the same notes."""
    said = []
    if message.status == "stopped":
        said.append("Stopped.")
    elif message.status == "error" and message.error is not None:
        said.append(f"{type(message.error).__name__}: {message.error}")
    elif message.finish == "length":
        said.append("Cut off at the token limit.")
    if message.repeats:
        said.append("It repeats itself; a higher repetition penalty may help.")
    if message.tool_calls and not message.calls_are_whole:
        said.append("Its calls may be incomplete and were not made.")
    elif message.calls_stopped:
        said.append("Its calls were stopped.")
    return said


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    return code_block(f"{function['name']}({function['arguments']})", "text")


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]


def _says(message: Message) -> bool:
    return bool(message.text or message.tool_calls) or message.role != "assistant"

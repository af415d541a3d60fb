"""What a user asks in the page: a message that may name variables, and texts attached to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.widget import notebook_variables
from mlc_widget.widget.prompt import fill_in_known, names_variables
from mlc_widget.widget.safe_markdown import code_block
from mlc_widget.widget.state import Attachment

MAX_CHARACTERS: Final = 200_000
"""Characters of all attachments of a message; js/src/attachments.ts has the same limit."""
_MAX_NUMBER: Final = 20
_MAX_NAME: Final = 200
_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Question:
    """A message of the user's.

    Attributes:
        text: The message as it was written.
        prompt: The message as the model reads it; empty if that is the same.
        attachments: What `prompt` has in addition.
    """

    text: str
    prompt: str = ""
    attachments: tuple[Attachment, ...] = ()


def read_attachments(given: Any) -> tuple[Attachment, ...]:
    """Attachments from the page: a list of ``{"name", "text"}``, or None.

    Raises:
        BadRequestError: one is invalid, or there are too many, or they are too long.
    """
    items = [] if given is None else given
    if not isinstance(items, list) or len(items) > _MAX_NUMBER:
        raise BadRequestError(
            f"attachments: must be a list of at most {_MAX_NUMBER}.", param="attachments"
        )
    found = tuple(_attachment(f"attachments[{at}]", item) for at, item in enumerate(items))
    length = sum(len(item.text) for item in found)
    if length > MAX_CHARACTERS:
        raise BadRequestError(
            f"attachments: {length:,} characters; at most {MAX_CHARACTERS:,} can be attached to a "
            "message. Load the data into the notebook and name its variable, such as {df}.",
            param="attachments",
        )
    return found


def plain_question(text: Any, files: Sequence[Attachment] = ()) -> Question | None:
    """A message that names no variables; None if it may name some, and `read_question` is needed.

    Raises:
        BadRequestError: the message says nothing.
    """
    check_text(text, empty=bool(files))
    return None if names_variables(text) else _question(text, text, files)


async def read_question(text: Any, files: Sequence[Attachment] = ()) -> Question:
    """A message with the notebook's variables filled in.

    They are read on a thread of their own, as writing a value out may take long.

    Raises:
        BadRequestError: the message says nothing, or a variable cannot be written out.
    """
    if (plain := plain_question(text, files)) is not None:
        return plain
    work = asyncio.to_thread(lambda: fill_in_known(text, notebook_variables.namespace()))
    try:
        filled = await asyncio.wait_for(work, _PATIENCE_S)
    except TimeoutError:
        raise BadRequestError(
            f"text: filling in its variables took more than {_PATIENCE_S:g} s. Name only a part "
            "of them, such as {df.columns}."
        ) from None
    values = [Attachment(name, value, True) for name, value in filled.values.items()]
    return _question(text, filled.text, (*files, *values))


def check_text(text: Any, *, empty: bool = False) -> None:
    """Check a message's text, which may be `empty` if it has attachments.

    Raises:
        BadRequestError: it is no text, or it is empty.
    """
    if not isinstance(text, str) or not (empty or text.strip()):
        raise bad("text", text, "write a message first.")


def _attachment(param: str, item: Any) -> Attachment:
    name, text = (item.get("name"), item.get("text")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str) or not text:
        raise BadRequestError(f"{param}: must be an object with name and text.", param=param)
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return Attachment(line[:_MAX_NAME] or "text", text)


def _question(text: str, filled: str, attachments: Iterable[Attachment]) -> Question:
    found = tuple(attachments)
    # A small model answers best what it reads last.
    blocks = [f"{item.name}:\n{code_block(item.text)}" for item in found if not item.variable]
    prompt = "\n\n".join(part for part in (*blocks, filled) if part.strip())
    return Question(text, "" if prompt == text else prompt, found)

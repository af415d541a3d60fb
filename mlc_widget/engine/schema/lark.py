"""The text of a grammar in progress: rules, terminals, and strings that are left to llguidance."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final, Protocol

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.schema.layout import Scalars

WHITESPACE: Final = r"(\x20|\x0A[\x20\x09]{0,24})"
"""What may separate the parts of a JSON text: a space, or a line break and indentation."""
PLAIN_STRING: Final = r'"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt])*"'
"""Strings with exactly one spelling each."""
STRING: Final = r'"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt]|\\u00[01][0-9a-f])*"'

MARK: Final = "@"
"""What marks begin with (`LarkText.mark`)."""


LARGEST: Final = 4 * 1024 * 1024
"""The maximum number of characters of a grammar; it is refused before it takes more memory."""
TOO_LARGE: Final = "makes a grammar that is too large"
TOO_MANY: Final = "has too many parts"


class TooCostlyError(Exception):
    """A schema takes too much time or memory to compile. The message says which."""


def too_costly(path: str, error: TooCostlyError | RecursionError) -> BadRequestError:
    """The error of a request whose schema cannot be compiled within the limits.

    Args:
        path: Where in the request the work was.
        error: The limit.
    """
    why = error if isinstance(error, TooCostlyError) else "is nested too deeply"
    return BadRequestError(f"{path}: the schema {why}; make it smaller.", param=path)


class Checker(Protocol):
    """Compiles Lark texts to answer questions about them.

    Every method raises a `TooCostlyError` if the work for the request takes too long.
    """

    def tick(self) -> None:
        """Check the time."""

    def is_satisfiable(self, lark: str) -> bool:
        """Whether any text matches a grammar; true if that is not known."""

    def can_compile(self, lark: str) -> bool:
        """Whether a grammar can be used."""


class LarkText:
    """A grammar in progress; what is added twice is contained once.

    Attributes:
        distinct: What the runtime must know of arrays with `uniqueItems`; see `mark`.
    """

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._made = self._size = 0
        self._terminals: dict[str, str] = {}
        self._strings: dict[str, str] = {}
        self.distinct: dict[str, dict[str, Any]] = {}

    def rule(self, body: str, name: str | None = None) -> str:
        """Add a rule and return its name."""
        name = name or self.new_name()
        self._rules.append(f"{name}: {body}")
        self.count(body)
        return name

    def count(self, text: str) -> None:
        """Count the characters of a part of the grammar.

        Raises:
            TooCostlyError: The grammar is too large.
        """
        self._size += len(text)
        if self._size > LARGEST:
            raise TooCostlyError(TOO_LARGE)

    def new_name(self) -> str:
        """A new name, for a rule that is added later."""
        self._made += 1
        return f"r{self._made - 1}"

    def terminal(self, text: str) -> str:
        """Add a terminal and return its name."""
        if text not in self._terminals:
            self._terminals[text] = f"T{len(self._terminals)}"
            self.count(text)
        return self._terminals[text]

    def regex(self, pattern: str) -> str:
        """Add a terminal for a regular expression and return its name."""
        return self.terminal(regex(pattern))

    def json(self, schema: Mapping[str, Any]) -> str:
        """Add a rule for what matches a schema, as llguidance reads it, and return its name."""
        text = json.dumps({"x-guidance": {"whitespace_pattern": WHITESPACE}, **schema})
        return self._strings.setdefault(text, f"s{len(self._strings)}")

    def mark(self, items: Scalars) -> str:
        """Add a terminal that marks the beginning of distinct items, and return its name.

        It occurs in no answer: where the grammar would accept it, the runtime knows that such an
        array has begun, and finds the items in `distinct` by the mark's text.
        """
        wanted = {
            "strings": items.strings,
            "others": items.others,
            # Whether a quote may come in one token with a comma, as there is always a string left.
            "quote_after_comma": not items.others or items.string_count == math.inf,
        }
        text = f"{MARK}{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]}"
        self.distinct[text] = wanted
        return self.terminal(quoted(text))

    def text(self, start: str) -> str:
        """The text of the whole grammar, which begins with a given rule."""
        strings = [f"{name}: %json {text}" for text, name in self._strings.items()]
        terminals = [f"{name}: {text}" for text, name in self._terminals.items()]
        head = ['%llguidance {"ignore_once": true}', f"%ignore /{WHITESPACE}/", f"start: {start}"]
        return "\n".join([*head, *self._rules, *strings, *terminals])


def regex(pattern: str) -> str:
    """A regular expression in Lark's syntax."""
    return "/" + pattern.replace("/", r"\/") + "/"


def json_text(value: Any) -> str:
    """A value's JSON text, as models write it."""
    return json.dumps(value, ensure_ascii=False)


def times(text: str, low: int, high: int | None) -> str:
    """A text repeated `low` to `high` times."""
    if high == 0:
        return ""
    return f"({text}){{{low},{'' if high is None else high}}}"


def quoted(text: str) -> str:
    """A text as a string literal of Lark."""
    return json.dumps(text, ensure_ascii=False)

"""Finds the call in an answer that is one call's JSON without the tags of its format.

Small models leave tags out, put the JSON into a code block, or write only the closing tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Final

from mlc_widget.engine.call_scanner import CallScanner

_FENCE: Final = "```"
_LEAD: Final = re.compile(rf"\s*({_FENCE}\w*\s*)?")
_LEAD_SO_FAR: Final = re.compile(r"\s*(`{0,2}|```\w{0,20}\s*)")
_KEYS: Final = frozenset({"name", "arguments", "parameters"})


def untagged_rules(names: Sequence[str], heads: Sequence[str], end: str) -> str:
    """Rules for llguidance: ``untagged``, and ``FREE`` for all text that does not begin like it.

    Args:
        names: The names of the offered tools.
        heads: The beginning of a call of each tool, up to its arguments, as a string in Lark. The
            arguments are ``@arguments_0`` and so on.
        end: The format's closing tag.
    """
    calls, rules = [], []
    for i, head in enumerate(heads):
        calls.append(f'UNTAGGED_{i} @arguments_{i} "}}"')
        # One terminal, as the lexer takes the longest: `FREE` matches the white space, too.
        rules.append(f"UNTAGGED_{i}: /{_LEAD.pattern}/ {head}\n")
    written = {text for n in names for text in (json.dumps(n), json.dumps(n, ensure_ascii=False))}
    called = " | ".join(json.dumps(text, ensure_ascii=False) for text in sorted(written))
    ends = f"{json.dumps(_FENCE)} | {json.dumps(end)}"
    return (
        f"untagged: ({' | '.join(calls)}) UNTAGGED_END\n"
        f"{''.join(rules)}"
        f"UNTAGGED_END: /\\s*/ (({ends}) /\\s*/)?\n"
        f'CALLING: /{_LEAD.pattern}\\{{\\s*"name"\\s*:\\s*/ ({called}) /(.|\\n)*/\n'
        "FREE: /(.|\\n)*/ & ~CALLING\n"
    )


class UntaggedCall:
    """Holds an answer back for as long as it may be one call of an offered tool.

    Args:
        names: The names of the offered tools.
        end: The format's closing tag, which may follow the call.
    """

    def __init__(self, names: Collection[str], end: str) -> None:
        self._names, self._ends = names, (_FENCE, end)
        self._held = ""
        self._read = 0
        self._scanner: CallScanner | None = None
        self._possible = True

    @property
    def possible(self) -> bool:
        """Whether the answer may still be a call; if not, `push` has returned all of its text."""
        return self._possible

    def push(self, text: str) -> str:
        """Take more text; returns what was held, and this, once the answer cannot be a call."""
        self._held += text
        self._possible = self._look()
        if self._possible:
            return ""
        held, self._held = self._held, ""
        return held

    def flush(self) -> tuple[str, tuple[str, str] | None]:
        """No more text will come: returns the text, or the call's name and arguments."""
        text, self._held, self._possible = self._held, "", False
        scanner = self._scanner
        if scanner is None or not scanner.done or scanner.failed or scanner.name is None:
            return text, None
        arguments = scanner.take()
        return ("", (scanner.name, arguments)) if _is_object(arguments) else (text, None)

    def _look(self) -> bool:
        if self._scanner is None:
            found = _LEAD.match(self._held)
            assert found is not None, "it may be empty"
            self._read = found.end()
            if self._read == len(self._held) or self._held[self._read] != "{":
                return _LEAD_SO_FAR.fullmatch(self._held) is not None
            self._scanner = CallScanner()
        scanner = self._scanner
        if not scanner.done:
            self._read += scanner.push(self._held[self._read :])
            known = scanner.name is None or scanner.name in self._names
            keys = set(scanner.keys)
            if scanner.failed or not known or not keys <= _KEYS or len(keys) < len(scanner.keys):
                return False
        rest = self._held[self._read :].strip()
        return any(end.startswith(rest) for end in self._ends)


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False

"""Grammars as llguidance takes them: a Lark text that may refer to others by ``@name``.

See llguidance's ``docs/syntax.md``: lowercase names are rules, uppercase names are terminals;
``[lazy]`` ends a rule as early as it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.system.imports import import_package

Part: TypeAlias = Mapping[str, Any]
"""One grammar: ``{"lark_grammar": text}`` or ``{"json_schema": schema}``."""

ANY_TEXT: Final = r"/(.|\n)*/"
WHITESPACE: Final = r"(\x20|\x0A[\x20\x09]{0,24})"
"""Between the parts of a JSON text: a space, or a break and indentation, and no more."""


def llguidance() -> Any:
    """The package.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    return import_package(
        "llguidance",
        "LLMatcher",
        "LLTokenizer",
        purpose="Structured output needs llguidance",
        install='pip install "mlc-widget[tvm]"',
    )


def literal(text: str) -> str:
    """A text as a Lark string; nothing for the empty text."""
    return json.dumps(text) if text else ""


def json_part(schema: Any) -> Part:
    """JSON that fits a checked schema (`json_schema.check_schema`)."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    return {"json_schema": {"x-guidance": {"whitespace_pattern": WHITESPACE}, **schema}}


def regex_part(pattern: str) -> Part:
    """Text that a regular expression matches from end to end."""
    made = json.loads(llguidance().LLMatcher.grammar_from_regex(pattern))
    return {"lark_grammar": made["grammars"][0]["lark_grammar"]}


def grammar_part(text: str, at: str) -> Part:
    """A grammar in Lark's syntax, or in EBNF (``root ::= …``, as in xgrammar and llama.cpp).

    Raises:
        BadRequestError: It is EBNF and malformed.
    """
    if "::=" not in text or re.search(r"(?m)^\s*(%llguidance\b|start\s*:[^:])", text):
        return {"lark_grammar": text}
    # llguidance's converter takes `root` only, and alternatives on new lines only after the bar.
    text = re.sub(r"\s*\n\s*\|", " |", text)
    found = re.search(r"(?m)^\s*(root|main)\s*::=", text)
    if not found:
        raise BadRequestError(f"{at}: the grammar has no rule named root.", param=at)
    if found[1] == "main":
        text = f"root ::= main\n{text}"
    # A root that is one terminal is matched as such, not letter by letter.
    text = re.sub(r"(?m)^\s*root\s*::=", "grammar-root ::=", text)
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return {"lark_grammar": gbnf_to_lark(f"root ::= grammar-root\n{text}")}
    except Exception as e:  # its errors have no class of their own
        raise BadRequestError(f"{at}: the grammar is malformed: {e}", param=at) from e


def assemble(start: str, parts: Mapping[str, Part]) -> str:
    """A grammar from a Lark text and the parts that it refers to."""
    named = [{"name": name, **part} for name, part in parts.items()]
    return json.dumps({"grammars": [{"lark_grammar": start}, *named]})


def check_grammar(grammar: str, at: str) -> None:
    """Refuse a grammar that cannot be used, before any work starts.

    Raises:
        BadRequestError: Naming the request's field and what is wrong.
    """
    problem = llguidance().LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise BadRequestError(f"{at}: {_first_lines(problem)}", param=at)


def regex_problem(pattern: str) -> str:
    """What is wrong with a regular expression; "" if nothing."""
    problem: str = llguidance().LLMatcher.validate_grammar(
        json.dumps({"grammars": [{"json_schema": {"type": "string", "pattern": pattern}}]})
    )
    return _first_lines(problem)


def _first_lines(problem: str) -> str:
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return " ".join([*lines[:1], *errors[:1]])

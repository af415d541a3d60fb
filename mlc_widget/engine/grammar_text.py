"""Writes grammars for llguidance: a Lark text that may refer to other grammars by ``@name``.

See llguidance's ``docs/syntax.md``: lowercase names are rules, uppercase names are terminals;
``[lazy]`` ends a rule as early as it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.grammar_check import CHECKER
from mlc_widget.engine.schema.compiler import json_grammar
from mlc_widget.engine.system.imports import import_llguidance

Part: TypeAlias = Mapping[str, Any]
"""A grammar: ``{"lark_grammar": text}``; that of a JSON schema has ``distinct`` (`JSONGrammar`) and
the ``json_schema``, too."""

ANY_TEXT: Final = r"/(.|\n)*/"
_GRAMMAR: Final = 256 * 1024
"""The maximum number of characters of a grammar in a request."""
_REGEX: Final = 16_384
_ASSEMBLED: Final = 4 * 1024 * 1024


def literal(text: str) -> str:
    """Write a text as a string in Lark; "" for an empty text."""
    return json.dumps(text) if text else ""


def json_part(schema: Any, at: str) -> Part:
    """A grammar for JSON that matches a checked schema (see `json_schema.check_schema`).

    Raises:
        BadRequestError: No value can match, or the schema is too large; `param` names the place.
        UnsupportedFieldError: A part of the schema cannot be enforced.
    """
    made = json_grammar(schema, at, checker=CHECKER)
    return {"lark_grammar": made.lark, "distinct": made.distinct, "json_schema": schema}


def regex_part(pattern: str) -> Part:
    """A grammar for text that a regular expression matches completely."""
    made = json.loads(import_llguidance().LLMatcher.grammar_from_regex(pattern))
    return {"lark_grammar": made["grammars"][0]["lark_grammar"]}


def grammar_part(text: str, at: str) -> Part:
    """A grammar in Lark's syntax, or in EBNF (``root ::= …``, as in xgrammar and llama.cpp).

    Raises:
        BadRequestError: It is too long, or it is EBNF and malformed.
    """
    if len(text) > _GRAMMAR:
        raise BadRequestError(f"{at}: {len(text)} characters; give at most {_GRAMMAR}.", param=at)
    if "::=" not in text or re.search(r"(?m)^[ \t]*(%llguidance\b|start[ \t]*:[^:])", text):
        return {"lark_grammar": text}
    # llguidance's converter needs a `root`, and accepts line breaks only after a bar.
    text = re.sub(r"[ \t\r\f\v]*\n\s*\|", " |", text)
    found = re.search(r"(?m)^[ \t]*(root|main)[ \t]*::=", text)
    if not found:
        raise BadRequestError(f"{at}: the grammar has no rule named root.", param=at)
    if found[1] == "main":
        text = f"root ::= main\n{text}"
    # Under another name, a root that is one terminal becomes one, not a rule of single letters.
    text = re.sub(r"(?m)^[ \t]*root[ \t]*::=", "grammar-root ::=", text)
    lark, problem = CHECKER.lark(f"root ::= grammar-root\n{text}")
    if problem:
        raise BadRequestError(f"{at}: the grammar is malformed: {problem:.500}", param=at)
    return {"lark_grammar": lark}


def assemble(start: str, parts: Mapping[str, Part]) -> str:
    """Join a Lark text and the grammars that it refers to."""
    named = [{"name": name, "lark_grammar": part["lark_grammar"]} for name, part in parts.items()]
    joined: dict[str, Any] = {"grammars": [{"lark_grammar": start}, *named]}
    if distinct := {k: v for part in parts.values() for k, v in part.get("distinct", {}).items()}:
        joined["distinct"] = distinct  # llguidance does not look at it
    return json.dumps(joined)


def check_grammar(grammar: str, at: str) -> None:
    """Refuse a grammar that cannot be used, before any work starts.

    It is compiled in another process first: the engine compiles only what has passed.

    Raises:
        BadRequestError: Naming the request's field and what is wrong.
    """
    problem = "it is too large" if len(grammar) > _ASSEMBLED else CHECKER.problem(grammar)
    if problem:
        raise BadRequestError(f"{at}: {_first_lines(problem)}.", param=at)


def regex_problem(pattern: str) -> str:
    """Say what is wrong with a regular expression; "" if nothing."""
    if len(pattern) > _REGEX:
        return f"it has {len(pattern)} characters; give at most {_REGEX}"
    return _first_lines(
        CHECKER.problem(
            json.dumps({"grammars": [{"json_schema": {"type": "string", "pattern": pattern}}]})
        )
    )


def _first_lines(problem: str) -> str:
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return " ".join([*lines[:1], *errors[:1]])[:600].rstrip(".")

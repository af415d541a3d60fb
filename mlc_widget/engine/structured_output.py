"""Turns a `response_format`, OpenAI's or WebLLM's, into a grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.grammar_check import CHECKER
from mlc_widget.engine.grammar_text import (
    Part,
    assemble,
    check_grammar,
    grammar_part,
    json_part,
    regex_part,
    regex_problem,
)
from mlc_widget.engine.json_schema import check_schema
from mlc_widget.engine.structural_tag import structural_tag_parts

_AT: Final = "response_format"


def response_grammar(wanted: Mapping[str, Any] | None) -> str | None:
    """The grammar of a checked `response_format`; None for plain text.

    Its type may be ``text``; ``json_object``, with or without ``schema``; OpenAI's ``json_schema``;
    ``regex`` with ``regex``; ``grammar`` with a ``grammar`` in EBNF or Lark, or as OpenAI's
    ``{"syntax": "lark" | "regex", "definition": …}``; ``structural_tag`` (see `structural_tag`).

    Raises:
        BadRequestError: It is malformed or cannot be enforced; `param` names the part.
    """
    if wanted is None or wanted.get("type", "text") == "text":
        return None
    with CHECKER.limited(_AT):
        parts, at = response_parts(wanted)
        grammar = assemble("start: @body", parts)
        check_grammar(grammar, at)
    return grammar


def response_parts(wanted: Mapping[str, Any]) -> tuple[Mapping[str, Part], str]:
    """Like `response_grammar`, but return the grammar's parts, of which ``body`` is the whole.

    They are not compiled, so errors that only llguidance finds are not found here.

    Returns:
        The parts, and the name of the field that they come from.
    """
    kind = wanted.get("type", "text")
    if kind == "structural_tag":
        inner = wanted.get("structural_tag")
        at = _AT if inner is None else f"{_AT}.structural_tag"
        return structural_tag_parts(wanted if inner is None else inner, at), at
    part, at = _part(kind, wanted)
    return {"body": part}, at


def _part(kind: str, wanted: Mapping[str, Any]) -> tuple[Part, str]:
    """The grammar for one type of `response_format`, and the field that it comes from."""
    if kind == "json_object":
        at = f"{_AT}.schema"
        given = wanted.get("schema")
        schema = {"type": "object"} if given is None else given
        return json_part(check_schema(schema, at, is_regex=regex_problem), at), at
    if kind == "json_schema":
        return _openai_schema(wanted.get("json_schema"))
    if kind == "regex":
        return _regex(wanted.get("regex"), f"{_AT}.regex")
    at = f"{_AT}.grammar"
    given = wanted.get("grammar")
    if isinstance(given, Mapping):
        at = f"{at}.definition"
        syntax, given = given.get("syntax"), given.get("definition")
        if syntax == "regex":
            return _regex(given, at)
        if syntax not in ("lark", "ebnf"):
            raise _wrong(f"{_AT}.grammar.syntax", syntax, "give lark, ebnf or regex")
    if not isinstance(given, str) or not given.strip():
        raise _wrong(at, given, "give a grammar in EBNF (root ::= …) or Lark (start: …)")
    return grammar_part(given, at), at


def _openai_schema(outer: Any) -> tuple[Part, str]:
    at = f"{_AT}.json_schema"
    if not isinstance(outer, Mapping):
        raise _wrong(at, outer, 'give {"name": …, "schema": …}')
    name, strict = outer.get("name"), outer.get("strict")
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise _wrong(f"{at}.name", name, "give 1 to 64 letters, digits, underscores and dashes")
    if strict not in (None, True, False):
        raise _wrong(f"{at}.strict", strict, "give True or False")
    at = f"{at}.schema"
    if outer.get("schema") is None:
        raise _wrong(at, None, "give the schema")
    return json_part(check_schema(outer["schema"], at, is_regex=regex_problem), at), at


def _regex(pattern: Any, at: str) -> tuple[Part, str]:
    if not isinstance(pattern, str) or not pattern:
        raise _wrong(at, pattern, "give a regular expression")
    if problem := regex_problem(pattern):
        raise _wrong(at, pattern, problem)
    return regex_part(pattern), at


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)

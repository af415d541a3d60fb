"""Writes the grammar of a request's answers: their format, calls and thoughts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlc_widget.engine.grammar_check import CHECKER
from mlc_widget.engine.grammar_text import Part, assemble, check_grammar
from mlc_widget.engine.reasoning import INSIDE_RULES, RULES
from mlc_widget.engine.structured_output import response_grammar, response_parts
from mlc_widget.engine.tool_grammar import tool_rules
from mlc_widget.engine.tools import Tools


def answer_grammar(
    wanted: Mapping[str, Any] | None, tools: Tools | None, *, thinks: bool, inside: bool
) -> str | None:
    """The grammar of an answer; None if any text is one.

    Args:
        wanted: The checked `response_format`, if the answer must have one.
        tools: The tools that may be called.
        thinks: Whether thoughts may come before the answer.
        inside: Whether the prompt ends inside a thought.

    Raises:
        BadRequestError: A schema or grammar is malformed or cannot be enforced; `param` names it.
    """
    if tools is None and not thinks:
        return response_grammar(wanted)
    with CHECKER.limited("response_format" if tools is None else "tools"):
        return _joined_grammar(wanted, tools, thinks=thinks, inside=inside)


def _joined_grammar(
    wanted: Mapping[str, Any] | None, tools: Tools | None, *, thinks: bool, inside: bool
) -> str:
    rules, at = "answer: @body", "tools"
    parts: dict[str, Part] = {}
    if wanted is not None:
        body, at = response_parts(wanted)
        parts.update(body)
    if tools is not None:
        rules, calls = tool_rules(tools, else_body=wanted is not None)
        parts.update(calls)
    if thinks:
        thought = "thought gap" if inside else "(thought gap)?"
        start = f"start: {thought} answer\n{INSIDE_RULES if inside else RULES}"
    else:
        start = "start: answer"
    grammar = assemble(f"{start}\n{rules}", parts)
    check_grammar(grammar, at)
    return grammar

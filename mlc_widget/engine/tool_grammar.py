"""Writes the grammar of an answer that may call tools."""

from __future__ import annotations

import json

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.grammar_text import (
    ANY_TEXT,
    Part,
    assemble,
    check_grammar,
    json_part,
    literal,
    regex_problem,
)
from mlc_widget.engine.json_schema import check_schema
from mlc_widget.engine.tools import Tools
from mlc_widget.engine.untagged_call import untagged_rules


def tool_rules(tools: Tools, *, else_body: bool) -> tuple[str, dict[str, Part]]:
    """The rules for an answer, the first of them ``answer``, and the parts they refer to.

    Args:
        tools: The tools.
        else_body: Whether an answer without a call must match ``@body``.

    Raises:
        BadRequestError: A tool's parameters are malformed, or cannot be enforced although it
            is ``strict``.
    """
    f, parts = tools.format, {}
    names = [tool["function"]["name"] for tool in tools.offered]
    heads = [literal(f'{{"name": {json.dumps(n)}, "{f.arguments}": ') for n in names]
    for i, tool in enumerate(tools.offered):
        parts[f"arguments_{i}"] = _arguments(i, tool)
    objects = [f'({head} @arguments_{i} "}}")' for i, head in enumerate(heads)]
    call = f"({' | '.join(objects)}) {literal(f.end)}"
    begin, between = literal(f.begin), literal(f.between)
    more = f"({between} {begin} {call})*" if tools.parallel else ""
    if tools.forced:
        return f"answer: {begin} {call} {more}", parts
    if else_body:
        return f"answer: {begin} {call} {more} | @body", parts
    if not begin:  # bare calls are whole answers
        return f"answer: TEXT | {call} {more}\nTEXT: /([^{{ \\n](.|\\n)*)?/", parts
    mark, gap = literal(f.begin.strip()), literal(f.begin[len(f.begin.rstrip()) :])
    rules = (
        untagged_rules(names, heads, f.end.strip()) + f"opened_first[lazy]: FREE {mark}\n"
        f"first: opened_first {gap} {call}\n"
        f"opened[lazy]: {ANY_TEXT} {mark}\n"
        f"called: opened {gap} {call}\n"
        f"tail: {ANY_TEXT}"
    )
    more = "called*" if tools.parallel else ""
    return f"answer: FREE | first {more} tail | untagged\n{rules}", parts


def _arguments(index: int, tool: JSONDict) -> Part:
    """The grammar that the arguments of one tool must match."""
    at = f"tools[{index}].function.parameters"
    wanted, strict = tool["function"].get("parameters"), tool["function"].get("strict")
    try:
        # As in OpenAI's API, a function without parameters takes none.
        schema = check_schema({"properties": {}} if wanted is None else wanted, at,
                              is_regex=regex_problem)  # fmt: skip
        schema = {"type": "object", **({} if isinstance(schema, bool) else schema)}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        part = json_part(schema, at)
        check_grammar(assemble("start: @body", {"body": part}), at)
    except BadRequestError as error:
        # A valid schema that cannot be enforced is left to the model, unless it is strict.
        enforceable = not isinstance(error, UnsupportedFieldError)
        if strict or (enforceable and (error.param != at or "no value" in str(error))):
            raise
        part = json_part({"type": "object"}, at)
    return part

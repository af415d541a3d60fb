"""Turns OpenAI's `tools` and `tool_choice` into a prompt and a grammar for the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.unicode_text import is_well_formed
from mlc_widget.engine.chat_template import ChatTemplate
from mlc_widget.engine.grammar_text import (
    ANY_TEXT,
    Part,
    assemble,
    check_grammar,
    json_part,
    literal,
    regex_problem,
)
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.json_schema import check_schema
from mlc_widget.engine.reasoning import without_thoughts
from mlc_widget.engine.text.prompt_text import Content
from mlc_widget.engine.tool_formats import Call, ToolFormat, own_format, tool_format_of
from mlc_widget.engine.untagged_call import untagged_rules


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one request.

    Attributes:
        format: The format in which the model gets and calls them.
        offered: The tools that it may call, in OpenAI's shape.
        forced: Whether it must call one.
        parallel: Whether it may call several.
    """

    format: ToolFormat
    offered: tuple[JSONDict, ...]
    forced: bool = False
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """The names of the offered tools."""
        return frozenset(tool["function"]["name"] for tool in self.offered)

    def grammar(self, *, else_body: bool) -> tuple[str, dict[str, Part]]:
        """The rules for an answer, the first of them ``answer``, and the parts they refer to.

        Args:
            else_body: Whether an answer without a call must match ``@body``.

        Raises:
            BadRequestError: A tool's parameters are malformed, or cannot be enforced although it
                is ``strict``.
        """
        f, parts = self.format, {}
        names = [tool["function"]["name"] for tool in self.offered]
        heads = [literal(f'{{"name": {json.dumps(n)}, "{f.arguments}": ') for n in names]
        for i, tool in enumerate(self.offered):
            parts[f"arguments_{i}"] = _arguments(i, tool)
        objects = [f'({head} @arguments_{i} "}}")' for i, head in enumerate(heads)]
        call = f"({' | '.join(objects)}) {literal(f.end)}"
        begin, between = literal(f.begin), literal(f.between)
        more = f"({between} {begin} {call})*" if self.parallel else ""
        if self.forced:
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
        more = "called*" if self.parallel else ""
        return f"answer: FREE | first {more} tail | untagged\n{rules}", parts


def read_tools(request: Mapping[str, Any], template: ChatTemplate) -> Tools | None:
    """The tools of a checked chat request; None if it has none or none may be called.

    Raises:
        UnsupportedFieldError: The model's template does not support tools.
    """
    offered = tuple(request.get("tools", ()))
    choice = request.get("tool_choice", "auto")
    if not offered or choice == "none":
        return None
    known = tool_format_of(template)
    if known is None:
        raise UnsupportedFieldError(
            f"tools: this model's conversation template ({template.name or 'without a name'}) "
            "does not support tools; leave them out, or use a model that was trained for them.",
            param="tools",
        )
    parallel = request.get("parallel_tool_calls", True)
    if isinstance(choice, Mapping):
        wanted = choice["function"]["name"]
        offered = tuple(t for t in offered if t["function"]["name"] == wanted)
        return Tools(known, offered, forced=True, parallel=False)
    return Tools(known, offered, forced=choice == "required", parallel=parallel)


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


def render_messages(
    messages: Sequence[JSONDict], tools: Tools | None, template: ChatTemplate
) -> list[JSONDict]:
    """Write tools, calls and results into messages that any template can render.

    Raises:
        UnsupportedFieldError: There are calls or results, but the template does not support tools.
        BadRequestError: A call or a result is malformed; `param` names it.
    """
    known = tools.format if tools else tool_format_of(template)
    continued = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    out: list[JSONDict] = system_message(messages)
    results: list[str] = []
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            continue
        if role == "tool" or message.get("tool_calls"):
            if known is None:
                raise UnsupportedFieldError(
                    f"messages[{i}]: this model's conversation template "
                    f"({template.name or 'without a name'}) does not support tools.",
                    param=f"messages[{i}]",
                )
            if role == "tool":
                results.append(message["content"])
                continue
        if results and known:
            out += known.results(results)
            results = []
        if role == "assistant":
            said = without_thoughts(message["content"] or "")
            content: Content = said if known is None else known.text(said)
            if known and message.get("tool_calls"):
                calls = _calls(f"messages[{i}]", message["tool_calls"])
                content = known.calls(known.text(said), calls)
            message = {"role": role, "content": content}
        elif role == "user" and known:
            message = {**message, "content": known.text(message["content"])}
        out.append(message)
    if results and known:
        out += known.results(results)
    if tools:
        out = _with_signatures(out, tools, template)
    if continued:
        out[-1] = {**out[-1], "continued": True}
    return out


def jinja_messages(
    messages: Sequence[JSONDict], tools: Tools | None, template: JinjaConversation
) -> tuple[list[JSONDict], tuple[JSONDict, ...]]:
    """The messages and the tools for a template in Jinja.

    What the template would lose is written into the messages: the tools, or calls and results.

    Raises:
        UnsupportedFieldError: There are calls or results, but the template does not support tools.
        BadRequestError: A call is malformed; `param` names it.
    """
    offered = tools.offered if tools else ()
    plain = [*system_message(messages), *(m for m in messages if m["role"] != "system")]
    most = max(len(m.get("tool_calls") or ()) for m in messages)
    if not offered and not most and all(m["role"] != "tool" for m in messages):
        return plain, ()
    support = template.support(offered=bool(offered))
    signs = bool(offered) and support.signatures and own_format(template) is not None
    whole = support.calls > 1 or 0 < support.calls >= most
    if whole and (signs or not offered):
        return plain, offered
    written = render_messages(messages, None if signs else tools, template)
    made = [{k: v for k, v in message.items() if k != "continued"} for message in written]
    return made, offered if signs else ()


def system_message(messages: Sequence[JSONDict]) -> list[JSONDict]:
    """All system messages joined to one, as templates have one place for them; or none."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    content = "\n\n".join(filter(None, system))
    return [{"role": "system", "content": content}] if system else []


def _with_signatures(
    messages: list[JSONDict], tools: Tools, template: ChatTemplate
) -> list[JSONDict]:
    system = template.system_message
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    for i, message in enumerate(messages):
        if message["role"] == "user":
            described = tools.format.first_user(message["content"], tools.offered)
            messages[i] = {**message, "content": described}
            break
    else:  # a system message alone
        described = tools.format.first_user("", tools.offered)
        if described:
            messages = [{"role": "user", "content": described}, *messages]
    return [{"role": "system", "content": tools.format.system(system, tools.offered)}, *messages]


def _calls(at: str, calls: Any) -> list[Call]:
    read = []
    for i, call in enumerate(calls):
        where = f"{at}.tool_calls[{i}].function"
        if hasattr(call, "model_dump"):
            call = call.model_dump()
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRequestError(
                f'{where} = {function!r:.120}: give {{"name": …, "arguments": …}}.', param=where
            )
        arguments = function.get("arguments") or ""
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments)
        if not isinstance(arguments, str):
            raise BadRequestError(
                f"{where}.arguments = {arguments!r:.120}: give a string.",
                param=f"{where}.arguments",
            )
        read.append(Call(function["name"], _arguments_json(arguments)))
    return read


def _arguments_json(text: str) -> str:
    """A call's arguments as JSON, even if the text is not: an answer may have been cut off there.

    An object is written as in the models' templates, and an empty text becomes an empty object.
    Any other text becomes a JSON string, which `ToolCallParser` reads back as the same text.
    """
    try:
        value = json.loads(text or "{}")
        if isinstance(value, dict):
            written = json.dumps(value, ensure_ascii=False, allow_nan=False)
            return written if is_well_formed(written) else json.dumps(value)
    except (ValueError, RecursionError):
        pass
    return json.dumps(text, ensure_ascii=not is_well_formed(text))

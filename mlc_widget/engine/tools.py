"""Reads OpenAI's `tools` and `tool_choice`, and writes tools and calls into a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.unicode_text import is_well_formed
from mlc_widget.engine.chat_template import ChatTemplate
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.reasoning import without_thoughts
from mlc_widget.engine.text.prompt_text import Content
from mlc_widget.engine.tool_formats import Call, ToolFormat, own_format, tool_format_of


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

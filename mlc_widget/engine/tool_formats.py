r"""How models are told of tools and how they call them, by family.

Texts follow the models' own chat templates: Qwen2.5's and Qwen3's (of any ChatML model), Hermes 2
Pro's and Hermes 3's, Llama 3.1's.

ChatML's and Hermes's calls and results stand between tags such as ``<tool_response>``, which need
not be tokens of their own. So that no text can open or close one, a ``<`` that begins such a tag is
written ``\u003c`` in JSON, where it means the same, and ``&lt;``, as in XML, in other text.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.chat_template import ChatTemplate
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.text.prompt_text import Content, PromptText, content, join, markup

_TAG: Final = re.compile(r"<(?=\s{0,4}/?\s{0,4}(?:tool_call|tool_response|tools)\b)", re.IGNORECASE)
_TURN_TAG: Final = re.compile(r"<(?=\s{0,4}/?\s{0,4}(?:tool_call|tool_response)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call of a tool: its name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolFormat(ABC):
    """One family's way.

    Attributes:
        begin: What opens a call in the model's text; "" where a call is a bare JSON object.
        end: What closes it.
        between: What parts two calls in a row.
        arguments: The key of the arguments.
    """

    begin: ClassVar[str]
    end: ClassVar[str]
    between: ClassVar[str]
    arguments: ClassVar[str] = "arguments"

    @abstractmethod
    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The system message of a conversation with tools."""

    def first_user(self, message: Content, tools: Sequence[JSONDict]) -> Content:
        """The first user message of a conversation with tools."""
        return message

    def text(self, message: str) -> str:
        """What somebody said, so that it cannot be taken for a call or a result."""
        return _TURN_TAG.sub("&lt;", message)

    def calls(self, said: str, calls: Sequence[Call]) -> PromptText:
        """An earlier answer with calls."""
        begin, end = markup(self.begin), markup(self.end)
        texts = [join((begin, content(self._call(c)), end)) for c in calls]
        return _lines([content(said), *texts] if said else texts)

    def _call(self, call: Call) -> str:
        name, arguments = _untagged(json.dumps(call.name)), _untagged(call.arguments)
        return f'{{"name": {name}, "{self.arguments}": {arguments}}}'

    @abstractmethod
    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """Messages that give what successive calls returned."""


class ChatML(ToolFormat):
    """Qwen2.5 and Qwen3: results are a user's turn."""

    begin = "<tool_call>\n"
    end = "\n</tool_call>"
    between = "\n"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """Signatures as JSON, one to a line."""
        lines = "".join(f"\n{_json(tool)}" for tool in tools)
        before = markup(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
        )
        after = markup(
            "\n</tools>\n\nFor each function call, return a json object with function name "
            "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )
        return join((_own(message), before, content(lines), after))

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """All in one turn."""
        return [{"role": "user", "content": _responses(self, contents)}]


_HERMES_CALL: Final = {
    "properties": {
        "name": {"title": "Name", "type": "string"},
        "arguments": {"title": "Arguments", "type": "object"},
    },
    "required": ["name", "arguments"],
    "title": "FunctionCall",
    "type": "object",
}


class Hermes(ToolFormat):
    """Hermes 2 Pro and Hermes 3: as ChatML, with a role for results."""

    begin = "<tool_call>\n"
    end = "\n</tool_call>"
    between = "\n"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The prompt that Hermes was trained with, after the system message."""
        before = markup(
            "You are a function calling AI model. You are provided with function signatures "
            "within <tools></tools> XML tags. You may call one or more functions to assist with "
            "the user query. Don't make assumptions about what values to plug into functions. "
            "Here are the available tools: <tools> "
        )
        after = markup(
            " </tools> Use the "
            "following pydantic model json schema for each tool call you will make: "
            f"{_json(_HERMES_CALL)} For each function call return a json object with function name "
            "and arguments within <tool_call></tool_call> XML tags as follows:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-dict>}\n</tool_call>'
        )
        return join((_own(message), before, content(_json(list(tools))), after))

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """A turn of role tool with all of them."""
        return [{"role": "tool", "content": _responses(self, contents)}]


class Llama31(ToolFormat):
    """Llama 3.1 and later: an answer that is a call is nothing but the call."""

    begin = ""
    end = ""
    between = "; "
    arguments = "parameters"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The environment that goes with tools, before the system message."""
        environment = (
            "Environment: ipython\nCutting Knowledge Date: December 2023\n"
            "Today Date: 26 Jul 2024\n\n"
        )
        return markup(environment) + content(message)

    def first_user(self, message: Content, tools: Sequence[JSONDict]) -> Content:
        """Signatures as indented JSON, before the question."""
        signatures = "".join(f"{json.dumps(t, indent=4, ensure_ascii=False)}\n\n" for t in tools)
        before = markup(
            "Given the following functions, please respond with a JSON for a function call with "
            "its proper arguments that best answers the given prompt.\n\n"
            'Respond in the format {"name": function name, "parameters": dictionary of argument '
            "name and its value}. Do not use variables.\n\n"
        )
        return before + content(signatures) + content(message)

    def text(self, message: str) -> str:
        """There are no tags: roles alone tell who speaks."""
        return message

    def calls(self, said: str, calls: Sequence[Call]) -> PromptText:
        """The calls alone."""
        return content(self.between.join(map(self._call, calls)))

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """A turn of the template's role ``ipython`` for each."""
        return [{"role": "tool", "content": c} for c in contents]


def tool_format_of(template: ChatTemplate) -> ToolFormat | None:
    """The way of the models that have this template; None if they know no tools."""
    if isinstance(template, JinjaConversation):
        return _format_of_jinja(template)
    user = template.roles["user"]
    if user.startswith("<|im_start|>"):
        return Hermes() if "tool" in template.roles else ChatML()
    if template.roles.get("tool", "").startswith("<|start_header_id|>ipython"):
        return Llama31()
    return None


def _format_of_jinja(template: JinjaConversation) -> ToolFormat | None:
    """The format of which a template writes the tags; None if it writes no tools that are known."""
    if not template.writes_tools or template.template is None:
        return None
    if "<tool_call>" in template.template.source:
        return ChatML()
    return Llama31() if "ipython" in template.template.source else None


def _json(value: Any) -> str:
    return _untagged(json.dumps(value, ensure_ascii=False))


def _untagged(text: str) -> str:
    """JSON that says the same and has no tags in it."""
    return _TAG.sub(r"\\u003c", text)


def _own(message: str) -> PromptText:
    """The request's system message, before that of the tools."""
    return content(f"{message}\n\n" if message else "")


def _responses(known: ToolFormat, contents: Sequence[str]) -> PromptText:
    """Results between tags."""
    begin, end = markup("<tool_response>\n"), markup("\n</tool_response>")
    return _lines([join((begin, content(known.text(c)), end)) for c in contents])


def _lines(parts: Sequence[PromptText]) -> PromptText:
    return join(p for i, part in enumerate(parts) for p in ((markup("\n"), part) if i else (part,)))

"""How models are told of tools and how they call them, by family.

Texts follow the models' own chat templates: Qwen2.5's and Qwen3's (of any ChatML model), Hermes 2
Pro's and Hermes 3's, Llama 3.1's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.conversation import ConversationTemplate


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
    def system(self, message: str, tools: Sequence[JSONDict]) -> str:
        """The system message of a conversation with tools."""

    def first_user(self, message: str, tools: Sequence[JSONDict]) -> str:
        """The first user message of a conversation with tools."""
        return message

    def calls(self, content: str, calls: Sequence[Call]) -> str:
        """An earlier answer with calls."""
        texts = [
            f'{self.begin}{{"name": {json.dumps(c.name)}, "{self.arguments}": {c.arguments}}}'
            f"{self.end}"
            for c in calls
        ]
        return "\n".join([content, *texts] if content else texts)

    @abstractmethod
    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """Messages that give what successive calls returned."""


class ChatML(ToolFormat):
    """Qwen2.5 and Qwen3: results are a user's turn."""

    begin = "<tool_call>\n"
    end = "\n</tool_call>"
    between = "\n"

    def system(self, message: str, tools: Sequence[JSONDict]) -> str:
        """Signatures as JSON, one to a line."""
        lines = "".join(f"\n{_json(tool)}" for tool in tools)
        return (
            (f"{message}\n\n" if message else "")
            + "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
            f"{lines}\n</tools>\n\nFor each function call, return a json object with function name "
            "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """All in one turn."""
        wrapped = [f"<tool_response>\n{c}\n</tool_response>" for c in contents]
        return [{"role": "user", "content": "\n".join(wrapped)}]


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

    def system(self, message: str, tools: Sequence[JSONDict]) -> str:
        """The prompt that Hermes was trained with, after the system message."""
        return (
            (f"{message}\n\n" if message else "")
            + "You are a function calling AI model. You are provided with function signatures "
            "within <tools></tools> XML tags. You may call one or more functions to assist with "
            "the user query. Don't make assumptions about what values to plug into functions. "
            f"Here are the available tools: <tools> {_json(list(tools))} </tools> Use the "
            "following pydantic model json schema for each tool call you will make: "
            f"{_json(_HERMES_CALL)} For each function call return a json object with function name "
            "and arguments within <tool_call></tool_call> XML tags as follows:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-dict>}\n</tool_call>'
        )

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """A turn of role tool with all of them."""
        wrapped = [f"<tool_response>\n{c}\n</tool_response>" for c in contents]
        return [{"role": "tool", "content": "\n".join(wrapped)}]


class Llama31(ToolFormat):
    """Llama 3.1 and later: an answer that is a call is nothing but the call."""

    begin = ""
    end = ""
    between = "; "
    arguments = "parameters"

    def system(self, message: str, tools: Sequence[JSONDict]) -> str:
        """The environment that goes with tools, before the system message."""
        return (
            "Environment: ipython\nCutting Knowledge Date: December 2023\n"
            f"Today Date: 26 Jul 2024\n\n{message}"
        )

    def first_user(self, message: str, tools: Sequence[JSONDict]) -> str:
        """Signatures as indented JSON, before the question."""
        signatures = "".join(f"{json.dumps(t, indent=4, ensure_ascii=False)}\n\n" for t in tools)
        return (
            "Given the following functions, please respond with a JSON for a function call with "
            "its proper arguments that best answers the given prompt.\n\n"
            'Respond in the format {"name": function name, "parameters": dictionary of argument '
            f"name and its value}}. Do not use variables.\n\n{signatures}{message}"
        )

    def calls(self, content: str, calls: Sequence[Call]) -> str:
        """The calls alone."""
        return self.between.join(
            f'{{"name": {json.dumps(c.name)}, "{self.arguments}": {c.arguments}}}' for c in calls
        )

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """A turn of the template's role ``ipython`` for each."""
        return [{"role": "tool", "content": c} for c in contents]


def tool_format_of(template: ConversationTemplate) -> ToolFormat | None:
    """The way of the models that have this template; None if they know no tools."""
    user = template.roles["user"]
    if user.startswith("<|im_start|>"):
        return Hermes() if "tool" in template.roles else ChatML()
    if template.roles.get("tool", "").startswith("<|start_header_id|>ipython"):
        return Llama31()
    return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

r"""The formats in which families of models get descriptions of tools and call them.

The texts are those of the models' own chat templates: of Qwen2.5 and Qwen3 (for all ChatML models),
of Hermes 2 Pro and Hermes 3, and of Llama 3.1.

In ChatML and Hermes, calls and results are enclosed in tags such as ``<tool_response>``, which need
not be tokens of their own. So that no content can open or close one, the ``<`` of such a tag is
written ``\u003c`` in JSON, where it means the same, and ``&lt;`` in other text.
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

_PLACE: Final = r'\{\s*"place"\s*:\s*"probed-one"\s*\}'
_NAME: Final = r'\{\s*"name"\s*:\s*"get_probe"\s*,\s*'
_CHATML_CALL: Final = re.compile(
    rf'<tool_call>\s*{_NAME}"arguments"\s*:\s*{_PLACE}\s*\}}\s*</tool_call>'
)
_LLAMA_CALL: Final = re.compile(rf'{_NAME}"parameters"\s*:\s*{_PLACE}\s*\}}')


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call of a tool: its name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolFormat(ABC):
    """The format of tools of one family of models.

    Attributes:
        begin: The text that opens a call; "" if a call is a bare JSON object.
        end: The text that closes a call.
        between: The text between two consecutive calls.
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
        """Escape a message so that it cannot be taken for a call or a result."""
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
        """Messages with the results of consecutive calls."""


class ChatML(ToolFormat):
    """Qwen2.5 and Qwen3; results are in a turn of the user."""

    begin = "<tool_call>\n"
    end = "\n</tool_call>"
    between = "\n"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The system message, then signatures as JSON, one per line."""
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
        """All results in one turn of the user."""
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
    """Hermes 2 Pro and Hermes 3; like ChatML, but with a role for results."""

    begin = "<tool_call>\n"
    end = "\n</tool_call>"
    between = "\n"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The system message, then the prompt with which Hermes was trained."""
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
        """All results in one turn of the role ``tool``."""
        return [{"role": "tool", "content": _responses(self, contents)}]


class Llama31(ToolFormat):
    """Llama 3.1 and later; an answer is either text or a call."""

    begin = ""
    end = ""
    between = "; "
    arguments = "parameters"

    def system(self, message: str, tools: Sequence[JSONDict]) -> PromptText:
        """The description of the environment that tools need, then the system message."""
        environment = (
            "Environment: ipython\nCutting Knowledge Date: December 2023\n"
            "Today Date: 26 Jul 2024\n\n"
        )
        return markup(environment) + content(message)

    def first_user(self, message: Content, tools: Sequence[JSONDict]) -> Content:
        """Signatures as indented JSON, then the message."""
        signatures = "".join(f"{json.dumps(t, indent=4, ensure_ascii=False)}\n\n" for t in tools)
        before = markup(
            "Given the following functions, please respond with a JSON for a function call with "
            "its proper arguments that best answers the given prompt.\n\n"
            'Respond in the format {"name": function name, "parameters": dictionary of argument '
            "name and its value}. Do not use variables.\n\n"
        )
        return before + content(signatures) + content(message)

    def text(self, message: str) -> str:
        """Nothing to escape, as there are no tags."""
        return message

    def calls(self, said: str, calls: Sequence[Call]) -> PromptText:
        """Only the calls."""
        return content(self.between.join(map(self._call, calls)))

    def results(self, contents: Sequence[str]) -> list[JSONDict]:
        """Each result in a turn of the role ``ipython``."""
        return [{"role": "tool", "content": c} for c in contents]


def tool_format_of(template: ChatTemplate) -> ToolFormat | None:
    """The format of the models with this template; None if they do not support tools."""
    if isinstance(template, JinjaConversation):
        return _format_of_jinja(template)
    user = template.roles["user"]
    if user.startswith("<|im_start|>"):
        return Hermes() if "tool" in template.roles else ChatML()
    if template.roles.get("tool", "").startswith("<|start_header_id|>ipython"):
        return Llama31()
    return None


def _format_of_jinja(template: JinjaConversation) -> ToolFormat | None:
    """Its own format, or that of ChatML, which models learn from the description of the tools."""
    return own_format(template) or (ChatML() if template.mentions_tools else None)


def own_format(template: JinjaConversation) -> ToolFormat | None:
    """The format in which a template writes tools and calls; None if it is not one of these."""
    offered = template.support(offered=True)
    if not offered.signatures:
        return None
    if _CHATML_CALL.search(offered.text):
        return ChatML()
    if _LLAMA_CALL.search(offered.text) and "ipython" in offered.text:
        return Llama31()
    # It describes ChatML's calls to the model, but does not write earlier ones.
    described = "<tool_call>" in offered.text and '"arguments":' in offered.text
    return ChatML() if described and offered.calls == 0 else None


def _json(value: Any) -> str:
    return _untagged(json.dumps(value, ensure_ascii=False))


def _untagged(text: str) -> str:
    """Escape tags in JSON without changing its meaning."""
    return _TAG.sub(r"\\u003c", text)


def _own(message: str) -> PromptText:
    """The request's own system message, which comes before the description of the tools."""
    return content(f"{message}\n\n" if message else "")


def _responses(known: ToolFormat, contents: Sequence[str]) -> PromptText:
    """Results enclosed in tags."""
    begin, end = markup("<tool_response>\n"), markup("\n</tool_response>")
    return _lines([join((begin, content(known.text(c)), end)) for c in contents])


def _lines(parts: Sequence[PromptText]) -> PromptText:
    return join(p for i, part in enumerate(parts) for p in ((markup("\n"), part) if i else (part,)))

"""Turns OpenAI's messages into a prompt by a model's own chat template in Jinja."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.errors import ModelFormatError, RuntimeUnavailableError, UnsupportedFieldError
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.conversation import too_long
from mlc_widget.engine.reasoning import CLOSE, OPEN
from mlc_widget.engine.store.stored_model import JinjaSource
from mlc_widget.engine.text.marks import END_MARK, parts_of, protect
from mlc_widget.engine.text.prompt_text import Piece, PromptText, markup
from mlc_widget.engine.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mlc_widget.engine.jinja_template import JinjaTemplate

_OWN: Final = ("content", "reasoning_content", "name", "tool_call_id")
_END: Final = f"{END_MARK} "
"""What is put behind an answer that was begun; without the space, its end was trimmed."""


@dataclass(frozen=True, slots=True)
class _CallForm:
    """How a template takes the calls of an assistant's message.

    Attributes:
        objects: Arguments are objects, rather than JSON text.
        content: The content of a message that has none.
    """

    objects: bool
    content: str | None


_FORMS: Final = (
    _CallForm(True, ""),
    _CallForm(False, ""),
    _CallForm(True, None),
    _CallForm(False, None),
)
_PROBE: Final[dict[str, Any]] = {
    "id": "call00001",  # some templates want nine letters or digits
    "type": "function",
    "function": {"name": "get_probe", "arguments": '{"place": "probed-one"}'},
}
_SECOND: Final[dict[str, Any]] = {
    "id": "call00002",
    "type": "function",
    "function": {"name": "get_second", "arguments": '{"place": "probed-two"}'},
}
_PROBE_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_probe",
        "description": "Probes.",
        "parameters": {
            "type": "object",
            "properties": {"probed_place": {"type": "string", "description": "Where."}},
            "required": ["probed_place"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What a template writes of tools, found by letting it write some.

    Attributes:
        signatures: Whether it writes the offered tools.
        calls: How many calls of one answer it writes, with their arguments and results; 2 stands
            for any number.
        text: A conversation with the call ``get_probe({"place": "probed-one"})``; "" if it fails.
    """

    signatures: bool
    calls: int
    text: str


class JinjaConversation:
    """A chat template in Jinja, with the same interface as a `ConversationTemplate`.

    Args:
        source: The template's text and special tokens.
        tokenizer: The model's tokenizer, whose control tokens must not come from content.

    Attributes:
        name: The template's name in error messages.
        stop_str: Empty: these models end with tokens, which the configuration has.
        stop_token_ids: Empty, too.
        system_prefix_token_ids: Empty: `render` writes the beginning of the prompt.
        completion_prefix_token_ids: The tokens before a prompt of plain text.

    Raises:
        ModelFormatError: The template is not valid.
    """

    name: Final = "the model's own chat template"
    stop_str: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    system_prefix_token_ids: tuple[int, ...] = ()
    system_message: str = ""

    def __init__(self, source: JinjaSource, tokenizer: Tokenizer) -> None:
        self._source = source
        self._control = frozenset(tokenizer.control_names)
        self.template = None if source.text is None else _template(source.text, source.where)
        self.completion_prefix_token_ids = () if source.bos_id is None else (source.bos_id,)

    @property
    def mentions_tools(self) -> bool:
        """Whether the template says anything of tools, so that the model was trained with some."""
        return self.template is not None and "tool" in self.template.source

    @property
    def knows_thinking(self) -> bool:
        """Whether the template itself turns thinking on and off."""
        return self.template is not None and self.template.uses("enable_thinking")

    def render(
        self,
        messages: Sequence[JSONDict],
        longest: int | None = None,
        *,
        tools: Sequence[JSONDict] = (),
        continued: bool | None = None,
        **variables: Any,
    ) -> PromptText:
        """Render the prompt of a conversation, up to where the assistant's answer starts.

        Args:
            messages: Checked messages; a content may be a `PromptText`.
            longest: The maximum length of the prompt in characters.
            tools: OpenAI's tools, for a template that writes them.
            continued: Whether the last message is the beginning of the answer; None if it is so if
                it is the assistant's and has no calls.
            variables: Other variables for the template, such as ``enable_thinking``.

        Raises:
            UnsupportedFieldError: The model has no template, or it refuses these messages.
            ModelFormatError: The template fails.
            ContextLengthExceededError: The prompt would have more than `longest` characters.
        """
        if self.template is None:
            raise UnsupportedFieldError(
                f"messages: {self._source.where} has no chat template, so this is a base model: "
                "use completions.create(prompt=…), or an instruct model.",
                param="messages",
            )
        said = sum(len(m.get("content") or "") for m in messages)
        if longest is not None and said > longest:  # before anything is rendered
            raise too_long("messages", said, longest)
        last = messages[-1]
        if continued is None:
            continued = last["role"] == "assistant" and not last.get("tool_calls")
        written = [self._message(m) for m in messages]
        if continued:  # the prompt ends with the beginning of the answer
            written[-1]["content"] += _END
        text = self.template.render(
            {
                "messages": written,
                "tools": protect(list(tools), self._control) or self._no_tools,
                "documents": None,
                "add_generation_prompt": not continued,
                **self._source.tokens,
                **variables,
            }
        )
        if continued:
            text, mark, behind = text.rpartition(END_MARK)
            if not behind.startswith(_END[1:]):  # the template strips white space
                text = text.rstrip()
            if not mark:
                raise UnsupportedFieldError(
                    "messages: with this model's chat template, an answer cannot be continued; "
                    "leave the last message out.",
                    param="messages",
                )
        if longest is not None and len(text) > longest:
            raise too_long("messages", len(text), longest)
        prompt = PromptText(Piece(part, is_markup) for part, is_markup in parts_of(text))
        bos = self._source.tokens.get("bos_token", "")
        begins = self._source.bos_in_chats and self._source.bos_id is not None
        if begins and not text.startswith(bos):
            prompt = markup(bos) + prompt
        return prompt

    @cached_property
    def _no_tools(self) -> list[JSONDict] | None:
        """What the template takes for no tools: None as in transformers, or an empty list."""
        assert self.template is not None
        said = {"messages": [{"role": "user", "content": "?"}], **self._source.tokens}
        forms: tuple[list[JSONDict] | None, ...] = (None, [])
        for tools in forms:
            with contextlib.suppress(ModelFormatError, UnsupportedFieldError):
                self.template.render({**said, "tools": tools, "documents": None})
                return tools
        return None

    def support(self, *, offered: bool) -> ToolSupport:
        """What the template writes of tools.

        Templates lose what they do not know, and some lose calls only if no tools are offered.

        Args:
            offered: Whether tools are offered in the request.
        """
        return self._with_tools if offered else self._without_tools

    @cached_property
    def _with_tools(self) -> ToolSupport:
        return self._probed([_PROBE_TOOL])

    @cached_property
    def _without_tools(self) -> ToolSupport:
        return self._probed([])

    def _probed(self, tools: Sequence[JSONDict]) -> ToolSupport:
        asked = {"role": "user", "content": "?"}
        first = self._try([asked], tools)
        one = self._try(_called(_PROBE), tools)
        two = self._try(_called(_PROBE, _SECOND), tools)
        kept = 0
        if all(word in one for word in ("get_probe", "probed-one", "result-1")):
            # One that refuses several calls says so when it gets them: it loses nothing.
            lost = two and not all(word in two for word in ("get_second", "probed-two", "result-2"))
            kept = 1 if lost else 2
        return ToolSupport("get_probe" in first and "probed_place" in first, kept, one)

    def _try(self, messages: Sequence[JSONDict], tools: Sequence[JSONDict]) -> str:
        if self.template is None:
            return ""
        try:
            return self.template.render(
                {
                    "messages": [self._message(message) for message in messages],
                    "tools": list(tools) or self._no_tools,
                    "documents": None,
                    "add_generation_prompt": True,
                    **self._source.tokens,
                }
            )
        except (ModelFormatError, UnsupportedFieldError):
            return ""

    @cached_property
    def _call_form(self) -> _CallForm:
        """The form of calls that this template writes, found by letting it write one."""
        probe = {"role": "assistant", "tool_calls": [_PROBE]}
        for tools in (self._no_tools, [_PROBE_TOOL]):  # some templates need tools before calls
            for form in _FORMS:
                messages = [
                    {"role": "user", "content": "?"},
                    self._message(probe, form),
                    {"role": "tool", "content": "!", "tool_call_id": _PROBE["id"]},
                ]
                assert self.template is not None
                try:
                    text = self.template.render(
                        {"messages": messages, "tools": tools, **self._source.tokens}
                    )
                except (ModelFormatError, UnsupportedFieldError):
                    continue
                if "probed-one" in text:
                    return form
        return _FORMS[0]

    def _message(self, message: JSONDict, form: _CallForm | None = None) -> dict[str, Any]:
        made: dict[str, Any] = {"role": message["role"], "content": ""}
        control = self._control
        if message["role"] == "assistant":  # its thoughts, which templates look for
            control -= {OPEN, CLOSE}
        for key in _OWN:
            if message.get(key) is not None:
                made[key] = _text(message[key], control)
        if "reasoning_content" in made:  # some templates' name for it
            made["thinking"] = made["reasoning_content"]
        if calls := message.get("tool_calls"):
            form = form or self._call_form
            made["tool_calls"] = [self._call(call, form) for call in calls]
            made["content"] = made["content"] or form.content
        return made

    def _call(self, call: Any, form: _CallForm) -> dict[str, Any]:
        if hasattr(call, "model_dump"):
            call = call.model_dump()
        function = call["function"]
        arguments: Any = function.get("arguments") or "{}"
        if isinstance(arguments, str) and form.objects:
            # Arguments that were cut off stay a string.
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = str(arguments)
        named: Mapping[str, Any] = {"name": function["name"], "arguments": arguments}
        return {
            "id": protect(str(call.get("id", "")), self._control),
            "type": "function",
            "function": protect(named, self._control),
        }


def _called(*calls: JSONDict) -> list[JSONDict]:
    """A conversation with an answer that has these calls, and their results."""
    results = [
        {"role": "tool", "content": f"result-{i}", "tool_call_id": call["id"],
         "name": call["function"]["name"]}
        for i, call in enumerate(calls, 1)
    ]  # fmt: skip
    return [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": list(calls)},
        *results,
    ]


def _text(value: Any, control: frozenset[str]) -> Any:
    if isinstance(value, PromptText):
        return "".join(p.text if p.is_markup else protect(p.text, control) for p in value.pieces)
    return protect(value, control)


def _template(text: str, where: str) -> JinjaTemplate:
    try:
        from mlc_widget.engine.jinja_template import JinjaTemplate
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"A chat template in Jinja needs the package {error.name}, which is missing: "
            'pip install "mlc-widget[tvm]".'
        ) from error
    return JinjaTemplate(text, where)

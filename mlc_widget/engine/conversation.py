"""Turns OpenAI's messages into a prompt by the `conv_template` of mlc-chat-config.json.

The template's fields have the meaning that mlc_llm's conversation protocol gives them. A prompt
has a system part, then for each message a role header, the content in the role's template and a
separator, and finally the assistant's header, after which the model writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    ModelFormatError,
    UnsupportedModelError,
)
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.model_config import token_ids
from mlc_widget.engine.text.prompt_text import Content, PromptText, fill, join, markup
from mlc_widget.engine.text.tokenizer import Tokenizer

_WHERE = "mlc-chat-config.json: conv_template"
_REMEDY = "Regenerate the file with `mlc_llm gen_config`."
_PLACEHOLDERS = {
    "system": "{system_message}",
    "user": "{user_message}",
    "assistant": "{assistant_message}",
    "tool": "{tool_message}",
}


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """The conversation template of one model; see the module's docstring."""

    name: str
    system_template: str
    system_message: str
    system_prefix_token_ids: tuple[int, ...]
    add_role_after_system_message: bool
    roles: Mapping[str, str]
    role_templates: Mapping[str, str]
    seps: tuple[str, ...]
    role_content_sep: str
    role_empty_sep: str
    stop_str: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    completion_prefix_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ConversationTemplate:
        """Read the template from a parsed mlc-chat-config.json.

        Raises:
            ModelFormatError: A field is missing or of the wrong type.
            UnsupportedModelError: Only the name of a template is given.
        """
        template = config.get("conv_template")
        if isinstance(template, str):
            raise UnsupportedModelError(
                f"{_WHERE} is only the name {template!r}: put the template itself there, as "
                "current versions of `mlc_llm gen_config` do.",
                param="conv_template",
            )
        if not isinstance(template, Mapping):
            raise ModelFormatError(
                f"{_WHERE} is missing or not an object: regenerate the file with "
                "`mlc_llm gen_config`.",
                param="conv_template",
            )
        fields = Fields(template, "conv_template", remedy=_REMEDY)
        seps = fields.strings("seps", [""])
        if not 1 <= len(seps) <= 2:
            raise fields.wrong("seps", "must be one or two strings")
        return cls(
            name=fields.string("name", ""),
            system_template=fields.string("system_template", _PLACEHOLDERS["system"]),
            system_message=fields.string("system_message", ""),
            system_prefix_token_ids=_ids(fields, "system_prefix_token_ids"),
            add_role_after_system_message=fields.boolean(
                "add_role_after_system_message", default=True
            ),
            roles=_texts(fields, "roles", "user", "assistant"),
            role_templates=_texts(fields, "role_templates"),
            seps=seps,
            role_content_sep=fields.string("role_content_sep", ""),
            role_empty_sep=fields.string("role_empty_sep", ""),
            stop_str=fields.strings("stop_str", []),
            stop_token_ids=_ids(fields, "stop_token_ids"),
        )

    def prompt(self, messages: Sequence[JSONDict], tokenizer: Tokenizer) -> list[int]:
        """The token ids of a conversation, up to where the assistant's answer starts.

        Args:
            messages: As returned by `tools.render_messages`: at most one system message, which is
                the first; the last one, if it is the assistant's, may be ``continued``.
            tokenizer: The model's tokenizer.

        Raises:
            BadRequestError: The template does not have the role of a message.
        """
        text = self.render(messages)
        return [*self.system_prefix_token_ids, *tokenizer.encode_prompt(text)]

    def render(self, messages: Sequence[JSONDict], longest: int | None = None) -> PromptText:
        """The text that `prompt` encodes, without `system_prefix_token_ids`.

        The template's own strings are markup. Each message's ``content`` is content, unless it is
        a `PromptText` with markup of its own.

        Raises:
            BadRequestError: The template does not have the role of a message.
            ContextLengthExceededError: The prompt would have more than `longest` characters.
        """
        system: Content = self.system_message
        turns = list(messages)
        if turns[0]["role"] == "system":
            system, turns = turns[0]["content"], turns[1:]
        parts: list[PromptText] = []
        length = 0

        def add(template: str, placeholder: str = "", value: Content = "") -> None:
            nonlocal length
            if placeholder:
                times = template.count(placeholder)
                length += len(template) + times * (len(value) - len(placeholder))
            else:
                length += len(template)
            if longest is not None and length > longest:  # before the prompt is built
                raise too_long("messages", length, longest)
            parts.append(fill(template, placeholder, value) if placeholder else markup(template))

        add(self.system_template, _PLACEHOLDERS["system"], system)
        for i, message in enumerate(turns):
            role = message["role"]
            if role not in self.roles:
                raise BadRequestError(
                    f"messages: this model's conversation template has no role {role!r}; it has "
                    f"{', '.join(self.roles)}.",
                    param="messages",
                )
            if message.get("continued"):
                break
            if i > 0 or self.add_role_after_system_message:
                add(self.roles[role] + self.role_content_sep)
            placeholder = _PLACEHOLDERS[role]
            template = self.role_templates.get(role, placeholder)
            add(template, placeholder, message["content"] or "")
            add(self.seps[0] if role == "user" else self.seps[-1])
        begun = turns[-1]["content"] if turns and turns[-1].get("continued") else ""
        add(self.roles["assistant"] + (self.role_content_sep if begun else self.role_empty_sep))
        if begun:
            placeholder = _PLACEHOLDERS["assistant"]
            template = self.role_templates.get("assistant", placeholder)
            add(template.partition(placeholder)[0] + placeholder, placeholder, begun)
        return join(parts)


def too_long(param: str, chars: int, longest: int) -> ContextLengthExceededError:
    """The error for a prompt with more characters than the context window can hold."""
    return ContextLengthExceededError(
        f"{param}: the prompt has at least {chars} characters, and the model's context window "
        f"holds at most {longest}: shorten it.",
        param=param,
    )


def _ids(fields: Fields, name: str) -> tuple[int, ...]:
    try:
        return token_ids(name, fields.get(name, []))
    except BadRequestError:
        raise fields.wrong(name, "must be a list of token ids") from None


def _texts(fields: Fields, name: str, *keys: str) -> Mapping[str, str]:
    """An object of strings that has these keys."""
    value = fields.get(name)
    if not isinstance(value, Mapping) or not set(keys) <= set(value):
        raise fields.wrong(name, "must be an object with user and assistant")
    if not all(isinstance(text, str) for text in value.values()):
        raise fields.wrong(name, "must be an object of strings")
    return dict(value)

"""From OpenAI's messages to a prompt, by the `conv_template` of mlc-chat-config.json.

The template's fields and their meaning are mlc_llm's (its conversation protocol): a system part,
then for each message a role header, the content put into the role's template, and a separator; at
the end the assistant's header, after which the model writes.
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
from mlc_widget.api.request_values import shortened
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.store.model_config import token_ids
from mlc_widget.engine.text.prompt_text import Content, PromptText, fill, join, markup
from mlc_widget.engine.text.tokenizer import Tokenizer

_WHERE = "mlc-chat-config.json: conv_template"
_PLACEHOLDERS = {
    "system": "{system_message}",
    "user": "{user_message}",
    "assistant": "{assistant_message}",
    "tool": "{tool_message}",
}


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """How one model's prompts are written; see the module's docstring."""

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
        """Read it from a parsed mlc-chat-config.json.

        Raises:
            ModelFormatError: a field is missing or of the wrong type.
            UnsupportedModelError: only a template's name is given.
        """
        template = config.get("conv_template")
        if isinstance(template, str):
            raise UnsupportedModelError(
                f"{_WHERE} is the name {template!r}: put the template itself there, as "
                "`mlc_llm gen_config` writes it now.",
                param="conv_template",
            )
        if not isinstance(template, Mapping):
            raise ModelFormatError(
                f"{_WHERE} is missing or not an object: regenerate the file with "
                "`mlc_llm gen_config`.",
                param="conv_template",
            )
        reader = _Reader(template)
        seps = reader.strings("seps", [""])
        if not 1 <= len(seps) <= 2:
            raise reader.wrong("seps", "one or two strings")
        return cls(
            name=reader.string("name", ""),
            system_template=reader.string("system_template", _PLACEHOLDERS["system"]),
            system_message=reader.string("system_message", ""),
            system_prefix_token_ids=reader.ids("system_prefix_token_ids"),
            add_role_after_system_message=reader.boolean(
                "add_role_after_system_message", default=True
            ),
            roles=reader.texts("roles"),
            role_templates=reader.texts("role_templates"),
            seps=seps,
            role_content_sep=reader.string("role_content_sep", ""),
            role_empty_sep=reader.string("role_empty_sep", ""),
            stop_str=reader.strings("stop_str", []),
            stop_token_ids=reader.ids("stop_token_ids"),
        )

    def prompt(self, messages: Sequence[JSONDict], tokenizer: Tokenizer) -> list[int]:
        """The token ids of a conversation, up to where the assistant's answer starts.

        Args:
            messages: As `tools.render_messages` gives them: one system message at most, the first;
                the last, of the assistant, may be ``continued``.
            tokenizer: The model's tokenizer.

        Raises:
            BadRequestError: a role that this model's template does not have.
        """
        text = self.render(messages)
        return [*self.system_prefix_token_ids, *tokenizer.encode_prompt(text)]

    def render(self, messages: Sequence[JSONDict], longest: int | None = None) -> PromptText:
        """The text that `prompt` encodes, without `system_prefix_token_ids`.

        The template's own strings are markup. Each message's ``content`` is content, unless it is
        a `PromptText` that tells markup and content apart itself.

        Raises:
            BadRequestError: a role that this model's template does not have.
            ContextLengthExceededError: it would have more than `longest` characters.
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
            if longest is not None and length > longest:  # before it is made
                raise too_long("messages", length, longest)
            parts.append(fill(template, placeholder, value) if placeholder else markup(template))

        add(self.system_template, _PLACEHOLDERS["system"], system)
        for i, message in enumerate(turns):
            role = message["role"]
            if role not in self.roles:
                raise BadRequestError(
                    f"messages: role {role!r} is not one that this model's conversation template "
                    f"has; it has {', '.join(self.roles)}.",
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
        f"{param}: the prompt has {chars} characters or more, and the model's context window holds "
        f"{longest} at most: shorten it.",
        param=param,
    )


class _Reader:
    """Typed access to the template's fields, with errors that name them."""

    def __init__(self, template: Mapping[str, Any]) -> None:
        self._template = template

    def wrong(self, name: str, wanted: str) -> ModelFormatError:
        return ModelFormatError(
            f"{_WHERE}.{name} is {shortened(self._template.get(name))}: it must be {wanted}.",
            param=f"conv_template.{name}",
        )

    def string(self, name: str, default: str) -> str:
        value = self._template.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self._template.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def strings(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        value = self._template.get(name)
        value = default if value is None else [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(name, "a list of strings")
        return tuple(value)

    def ids(self, name: str) -> tuple[int, ...]:
        value = self._template.get(name)
        if value is None:
            return ()
        try:
            return token_ids(name, value)
        except BadRequestError:
            raise self.wrong(name, "a list of token ids") from None

    def texts(self, name: str) -> Mapping[str, str]:
        value = self._template.get(name)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object with user and assistant")
        if name == "roles" and not {"user", "assistant"} <= set(value):
            raise self.wrong(name, "an object with user and assistant")
        if not all(isinstance(v, str) for v in value.values()):
            raise self.wrong(name, "an object of strings")
        return dict(value)

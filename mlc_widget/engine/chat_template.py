"""A model's chat template: MLC's `conv_template`, or the model's own template in Jinja."""

from __future__ import annotations

from typing import TypeAlias

from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.store.stored_model import StoredModel
from mlc_widget.engine.text.tokenizer import Tokenizer

ChatTemplate: TypeAlias = ConversationTemplate | JinjaConversation


def has_chats(template: ChatTemplate) -> bool:
    """Whether the model has a template; a base model may have none."""
    return not isinstance(template, JinjaConversation) or template.template is not None


def template_of(stored: StoredModel, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a model; a `conv_template` in its configuration or its overrides wins.

    Raises:
        ModelFormatError: It is missing or malformed.
        UnsupportedModelError: Only the name of a template is given.
    """
    if stored.jinja is not None and "conv_template" not in stored.config:
        return JinjaConversation(stored.jinja, tokenizer)
    return ConversationTemplate.from_config(stored.config)

"""A model's way to write a conversation down: MLC's `conv_template`, or its own in Jinja."""

from __future__ import annotations

from typing import TypeAlias

from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.store.stored_model import StoredModel
from mlc_widget.engine.text.tokenizer import Tokenizer

ChatTemplate: TypeAlias = ConversationTemplate | JinjaConversation


def template_of(stored: StoredModel, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a model; a `conv_template` in its configuration or its overrides wins.

    Raises:
        ModelFormatError: it is missing or malformed.
        UnsupportedModelError: only a template's name is given.
    """
    if stored.jinja is not None and "conv_template" not in stored.config:
        return JinjaConversation(stored.jinja, tokenizer)
    return ConversationTemplate.from_config(stored.config)

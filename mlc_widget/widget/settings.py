"""A chat's settings as traits, for Python; the page changes them by intents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import traitlets

from mlc_widget.widget.chat_request import DEFAULT_MAX_TOKENS, ChatOptions
from mlc_widget.widget.options import OPTION_NAMES, check_option


def _setting(text: str) -> Any:
    return traitlets.Any(None, allow_none=True, help=text)


class ChatSettings(traitlets.HasTraits):
    """The settings of a chat; None leaves a setting to the model.

    Setting an invalid value raises `BadRequestError`. Changes in the page appear here, too;
    observers are called on the user's own loop or thread.
    """

    system = _setting("The system prompt.")
    temperature = _setting("0 to 2; 0 always takes the most likely token.")
    top_p = _setting("0 to 1.")
    top_k = _setting("The number of most likely tokens to choose from; 0 means all of them.")
    min_p = _setting(
        "0 to 1: the lowest probability of a token, relative to that of the most likely one."
    )
    repetition_penalty = _setting("More than 1 makes repetitions less likely.")
    max_tokens = _setting(
        f"The maximum length of a reply in tokens; {DEFAULT_MAX_TOKENS:,} if the model has no "
        "default."
    )
    seed = _setting("The same seed, settings and messages give the same reply.")
    logprobs = _setting("Whether replies have the probabilities of their tokens.")
    schema = _setting("A JSON schema, as an object or as text, that every answer must meet.")
    sampling = _setting(
        "Further sampling fields of requests, such as {'dry_multiplier': 0.8, 'logit_bias': …}."
    )
    system_prompts = _setting("System prompts to choose from in the page, by their names.")
    tools = _setting(
        "What the model may call: functions, servers made by `mcp`, or OpenAI's tools."
    )

    _owner_of_settings: Callable[[str, Any], object] | None = None
    _quiet: threading.local

    @traitlets.validate(*OPTION_NAMES)
    def _check_setting(self, proposal: Any) -> Any:
        return check_option(proposal.trait.name, proposal.value)

    @traitlets.observe(*OPTION_NAMES)
    def _tell_setting(self, change: Any) -> None:
        if self._owner_of_settings is not None and not getattr(self._quiet, "on", False):
            self._owner_of_settings(change.name, change.new)

    def _follow_settings(self, options: ChatOptions, tell: Callable[[str, Any], object]) -> None:
        """Show these settings, and report each change that the user makes from now on."""
        self._quiet = threading.local()
        self._adopt_settings(options)
        self._owner_of_settings = tell

    def _adopt_settings(self, options: ChatOptions) -> None:
        """Show settings that were changed elsewhere; on the user's loop or thread."""
        with self._silently(), self.hold_trait_notifications():
            for name in OPTION_NAMES:
                self.set_trait(name, getattr(options, name))

    @contextmanager
    def _silently(self) -> Iterator[None]:
        self._quiet.on = True
        try:
            yield
        finally:
            self._quiet.on = False

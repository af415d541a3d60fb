"""The settings that were changed in the page, which the notebook keeps with the transcript."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.options import OPTION_NAMES
from mlc_widget.widget.session import ChatSession

KEPT_NAMES = tuple(name for name in OPTION_NAMES if name != "tools")
"""Tools are functions of the notebook, which only its code can give."""


def settings_of(options: ChatOptions) -> JSONDict:
    """The settings that a chat's file has, apart from the system prompt, which is a message."""
    names = (name for name in KEPT_NAMES if name != "system")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def saved_settings(chat: Mapping[str, Any]) -> JSONDict:
    """The settings in a chat's file, not yet checked."""
    saved = chat.get("settings")
    known = saved if isinstance(saved, Mapping) else {}
    return {name: known[name] for name in KEPT_NAMES if name in known}


class KeptSettings:
    """Changes settings for the page. Its methods belong to the I/O thread.

    Args:
        session: Has the settings.
        given: The names of those that the notebook's code gives. When its cell runs again, the code
            counts, and not what was kept.
    """

    def __init__(self, session: ChatSession, given: Collection[str]) -> None:
        self._session = session
        self._given = frozenset(given)
        self._before: dict[str, Any] = {}
        """The values before the first change."""

    def set(self, name: Any, value: Any) -> None:
        """Change a setting.

        Raises:
            BadRequestError: it is invalid, or not to be set in the page.
        """
        if name not in KEPT_NAMES:
            known = ", ".join(KEPT_NAMES)
            raise bad("name", name, f"no such setting; known: {known}.")
        before = getattr(self._session.options, name)
        self._session.set_option(name, value)
        self._before.setdefault(name, before)

    def reset(self) -> None:
        """Undo all changes that were made in the page."""
        before, self._before = self._before, {}
        for name, value in before.items():
            self._session.set_option(name, value)

    def adopt(self, saved: Any) -> None:
        """Take the settings that a saved notebook has; anybody may have written it."""
        for name in KEPT_NAMES:
            if isinstance(saved, dict) and name in saved and name not in self._given:
                with contextlib.suppress(BadRequestError):
                    self.set(name, saved[name])

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the settings that differ from what the code gave."""
        now = self._session.options
        return tuple(name for name, before in self._before.items() if getattr(now, name) != before)

    def to_json(self) -> JSONDict:
        """The changed settings, for the notebook."""
        return {name: getattr(self._session.options, name) for name in self.changed}

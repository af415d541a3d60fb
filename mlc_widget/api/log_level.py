"""WebLLM's log levels in Python's terms."""

from __future__ import annotations

import logging
from typing import Final

from mlc_widget.api.errors import BadRequestError

_LEVELS: Final = {
    "TRACE": 5,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "SILENT": logging.CRITICAL + 10,
}


def check_log_level(level: str) -> str:
    """Check a level; returns its upper-case name.

    Raises:
        BadRequestError: There is no such level.
    """
    name = level.upper() if isinstance(level, str) else ""
    if name not in _LEVELS:
        raise BadRequestError(
            f"log_level = {level!r:.200}: give one of {', '.join(_LEVELS)}.", param="log_level"
        )
    return name


def set_log_level(level: str) -> None:
    """Set the level of this process's ``mlc_widget`` loggers.

    Raises:
        BadRequestError: There is no such level.
    """
    logging.getLogger("mlc_widget").setLevel(_LEVELS[check_log_level(level)])

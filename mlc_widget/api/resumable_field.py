"""The request field ``resumable``, by which an answer is written to a session on disk."""

from __future__ import annotations

import re
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import JSONDict, bad, boolean, integer, mapping, one_of

_SESSION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def session_id(param: str, value: Any) -> str:
    """The name of a session, which is also the name of its file.

    Raises:
        BadRequestError: It is not such a name.
    """
    if not isinstance(value, str) or not _SESSION_ID.fullmatch(value):
        raise bad(
            param,
            value,
            "give up to 128 letters, digits, '.', '_' and '-', the first a letter or digit.",
        )
    return value


_OPTIONS: Final = {
    "enabled": boolean,
    "session_id": session_id,
    "store_prompt": boolean,
    "strict_persistence": boolean,
    "durability_mode": one_of("exact", "relaxed"),
    # These are about checkpoints of keys and values, which are computed again here.
    "checkpoint_interval_tokens": integer(1, 2**31 - 1),
    "checkpoint_prompt": boolean,
    "store_checkpoint_logits": boolean,
}


def resumable(param: str, value: Any) -> JSONDict:
    """The field's options, by their names in Python; WebLLM's names are accepted, too.

    Raises:
        BadRequestError: There is no such option, or its value is wrong.
    """
    given: JSONDict = {}
    for name, option in mapping(param, value).items():
        ours = re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)
        if ours not in _OPTIONS:
            raise bad(f"{param}.{name}", option, f"no such option; known: {', '.join(_OPTIONS)}.")
        if option is not None:
            given[ours] = _OPTIONS[ours](f"{param}.{name}", option)
    if "enabled" not in given:
        raise BadRequestError(f"{param}.enabled: give True or False.", param=f"{param}.enabled")
    return given

"""Checks on what every runtime reads from mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.chat_opts import CHAT_OPTS
from mlc_widget.api.errors import BadRequestError, ModelFormatError
from mlc_widget.api.request_values import bad, integer
from mlc_widget.models import CONFIG_FILE

_MOST_IDS: Final = 1024
_token_id: Final = integer(0, 2**31 - 1)


def token_ids(param: str, value: Any) -> tuple[int, ...]:
    """One token id, or a list of them.

    Raises:
        BadRequestError: It is something else.
    """
    if not isinstance(value, list):
        return (_token_id(param, value),)
    if len(value) > _MOST_IDS:
        raise bad(param, f"{len(value)} ids", f"give at most {_MOST_IDS}.")
    return tuple(_token_id(f"{param}[{i}]", one) for i, one in enumerate(value))


_FIELDS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    **{n: check for n, check in CHAT_OPTS.items() if n not in ("numerics", "quantization")},
    "eos_token_id": token_ids,
}


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse numbers that make no sense: the defaults of requests, sizes and token ids.

    Raises:
        ModelFormatError: naming the field and its value.
    """
    for name, check in _FIELDS.items():
        value = config.get(name)
        if value is None:
            continue
        try:
            check(name, value)
        except BadRequestError as error:
            raise ModelFormatError(f"{CONFIG_FILE}: {error.message}", param=name) from None

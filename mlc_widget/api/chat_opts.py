"""`chat_opts`: what `reload`, or an app config, may override in a model's mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.request_values import Check, JSONDict, bad, integer, mapping, one_of
from mlc_widget.api.requests import CHAT_FIELDS
from mlc_widget.api.sampling_defaults import SAMPLING_DEFAULTS

_SIZE: Final = integer(1, 2**31 - 1)
_SIZE_OR_NONE: Final = integer(-1, 2**31 - 1)  # MLC writes -1 where there is none


def _any(param: str, value: Any) -> Any:
    """Accept any value: only the runtime or the conversation template can check this one."""
    return value


CHAT_OPTS: Final[Mapping[str, Check]] = {
    "context_window_size": _SIZE_OR_NONE,
    "sliding_window_size": _SIZE_OR_NONE,
    "attention_sink_size": _SIZE_OR_NONE,
    "prefill_chunk_size": _SIZE,
    "max_batch_size": _SIZE,
    **{name: CHAT_FIELDS[name] for name in SAMPLING_DEFAULTS},
    "conv_template": _any,
    "model_task": _any,
    "embedding_metadata": _any,
    "numerics": _any,
    "quantization": one_of("q4f16_1", "q8f16_1", "q0f16", "q0f32"),  # of safetensors alone
}


def check_chat_opts(param: str, value: Any) -> JSONDict:
    """Check the overrides of one model; None, or None for an option, means that it is not given.

    Raises:
        BadRequestError: An override is invalid; the message names the option and its value.
    """
    if value is None:
        return {}
    given = {name: v for name, v in mapping(param, value).items() if v is not None}
    for name, option in given.items():
        if name not in CHAT_OPTS:
            known = ", ".join(CHAT_OPTS)
            raise bad(f"{param}.{name}", option, f"no such option; known: {known}.")
        CHAT_OPTS[name](f"{param}.{name}", option)
    return given

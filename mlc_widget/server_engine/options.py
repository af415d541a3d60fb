"""The options of the server engines, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from mlc_widget.api.progress import InitProgressCallback


class ServerOptions(TypedDict, total=False):
    """The options of the engines on a server, as keyword arguments of engines and factories.

    Attributes:
        api_key_env: The name of the environment variable with the server's key. By default no key
            is sent, apart from `OPENAI_API_KEY` to OpenAI's server or to that of
            `OPENAI_BASE_URL`.
        timeout: Seconds in which the server must answer and, in streams, send the next event; 600
            by default.
        extra_fields: Names of request fields that are sent although the server does not say that
            it has them.
        init_progress_callback: Called with an `InitProgressReport` when the server is asked for its
            models.
    """

    api_key_env: str | None
    timeout: float
    extra_fields: Sequence[str]
    init_progress_callback: InitProgressCallback | None


SERVER_DEFAULTS: Final[ServerOptions] = {
    "api_key_env": None,
    "timeout": 600.0,
    "extra_fields": (),
    "init_progress_callback": None,
}

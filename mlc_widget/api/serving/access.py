"""Who may use a served engine: whoever has its token, from where it listens."""

from __future__ import annotations

import hmac
import re
import secrets
from typing import Final

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.request_values import bad, boolean
from mlc_widget.api.server_urls import is_loopback

_SHORTEST: Final = 16


class UnauthorizedError(MLCEngineError):
    """The request has no token, or a wrong one."""

    default_code = "invalid_api_key"


class ForbiddenHostError(MLCEngineError):
    """The request names a host that this server is not."""

    default_code = "forbidden_host"


def check_token(token: str | None) -> str:
    """The token that was given, or a new one.

    Raises:
        BadRequestError: It is too short, or has characters that HTTP headers cannot carry. The
            message does not have the token in it.
    """
    if token is None:
        return secrets.token_urlsafe(32)
    if (
        not isinstance(token, str)
        or len(token) < _SHORTEST
        or not all("!" <= character <= "~" for character in token)
    ):
        raise bad(
            "token",
            "…",
            f"give at least {_SHORTEST} ASCII characters without spaces, or none for a new one.",
        )
    return token


def check_host(host: str, allow_remote: bool) -> bool:
    """Whether the host is loopback.

    Raises:
        BadRequestError: It is not a host, or is not loopback and `allow_remote` is False.
    """
    if not isinstance(host, str) or not host.strip():
        raise bad("host", host, "give an address of this machine, such as 127.0.0.1.")
    loopback = is_loopback(host)
    if not loopback and not boolean("allow_remote", allow_remote):
        raise bad(
            "host",
            host,
            "other machines could reach it, and tokens and prompts would cross the network "
            "unencrypted. Use 127.0.0.1 and an SSH tunnel, or allow it with allow_remote=True "
            "(--allow-remote).",
        )
    return loopback


class Access:
    """Checks a request's headers.

    Args:
        token: What the request must carry.
        loopback: Whether the server listens on loopback. Then the request must be addressed to
            loopback, so that a web page cannot reach the server by a name that it has resolve to
            this machine (DNS rebinding).
    """

    def __init__(self, token: str, *, loopback: bool) -> None:
        self._token = token.encode()
        self._loopback = loopback

    def check_host(self, host: str) -> None:
        """Check the header ``Host``; empty if there is none.

        Raises:
            ForbiddenHostError: It names another machine.
        """
        if self._loopback and not is_loopback(_name_of(host)):
            raise ForbiddenHostError(
                "The header Host names another machine, but this server answers only to this one: "
                "use the address 127.0.0.1 or the name localhost."
            )

    def check_token(self, authorization: str) -> None:
        """Check the header ``Authorization``; empty if there is none.

        Raises:
            UnauthorizedError: It does not have the token.
        """
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._token) or scheme.lower() != "bearer":
            raise UnauthorizedError(
                "The server's token is missing or wrong: send the header "
                "`Authorization: Bearer TOKEN`; OpenAI's client takes the token as api_key."
            )


def _name_of(host: str) -> str:
    """The host of the header ``Host``, without its port; empty if it is malformed."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host)
    return found[1] if found else ""

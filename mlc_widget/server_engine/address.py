"""Where a server is, and the environment variable that has its key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.group_folder import SCHEME, check_group, group_socket
from mlc_widget.api.request_values import bad, identifier
from mlc_widget.api.server_urls import looks_like_server

_OPENAI: Final = "api.openai.com"
_OPENAI_KEY: Final = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a server's API.

    Attributes:
        base: The address that the paths of OpenAI's API are added to, such as
            ``http://127.0.0.1:8000/v1``.
        root: The same without its path.
        host: The host, with its port if one is given; the group's address for a group's server.
        host_name: The host alone.
        path: The path of `base`.
        socket: The Unix socket of a group's server; None for others.
    """

    base: str
    root: str
    host: str
    host_name: str
    path: str
    socket: Path | None = None

    @property
    def url(self) -> str:
        """What a user knows it by."""
        return self.base if self.socket is None else self.host

    @classmethod
    def read(cls, url: str) -> ServerAddress:
        """Check an address; without a path, it is that of ``/v1``.

        ``group://NAME`` is the server that was started for a group of this machine's users.

        Raises:
            BadRequestError: It is not one. A password in it is not shown.
        """
        if not looks_like_server(url):
            raise bad("url", url, "give a server's address, such as http://127.0.0.1:8000/v1.")
        if url.lower().startswith(SCHEME):
            return cls._of_group(check_group(url[len(SCHEME) :].removesuffix("/")))
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise bad("url", url, "it is not a valid address.") from None
        if parts.username is not None or parts.password is not None:
            raise bad(
                "url",
                "…",
                "leave out user and password: put the key into an environment variable, and give "
                "the variable's name as api_key_env.",
            )
        if parts.query or parts.fragment or not parts.hostname:
            raise bad("url", url, "give a host and a path only.")
        if any(not "!" <= character <= "~" for character in url):
            raise bad("url", url, "an address has only ASCII characters, without spaces.")
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        host = name if port is None else f"{name}:{port}"
        root = f"{parts.scheme}://{host}"
        path = parts.path.rstrip("/") or "/v1"
        return cls(root + path, root, host, parts.hostname, path)

    @classmethod
    def _of_group(cls, name: str) -> ServerAddress:
        """The address of a group's server, whose HTTP has no use for a host."""
        root = "http://localhost"
        socket = group_socket(name)
        return cls(f"{root}/v1", root, f"{SCHEME}{name}", "localhost", "/v1", socket)


def key_variable(address: ServerAddress, given: str | None) -> str | None:
    """The environment variable whose key may be sent there; None sends no key.

    Without a name, `OPENAI_API_KEY` is used for the server that it is meant for: OpenAI's own, or
    that of `OPENAI_BASE_URL`. So a key never goes to another server by itself.

    Raises:
        BadRequestError: There is no such variable, or its value cannot be a key.
    """
    if given is not None:
        read_key(identifier("api_key_env", given))
        return given
    meant = os.environ.get("OPENAI_BASE_URL") or f"https://{_OPENAI}/v1"
    try:
        same = address.socket is None and ServerAddress.read(meant).root == address.root
    except BadRequestError:
        return None
    return _OPENAI_KEY if same and os.environ.get(_OPENAI_KEY) else None


def read_key(variable: str) -> str:
    """The key in an environment variable. It is read for each request, and kept nowhere.

    Raises:
        BadRequestError: There is none, or it has characters that a header cannot carry. The
            message does not have the key in it.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise bad("api_key_env", variable, "this environment variable is not set.")
    if not all("!" <= character <= "~" for character in key):
        raise bad("api_key_env", variable, "its value has characters that no key has.")
    return key

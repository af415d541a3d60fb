"""What addresses mean: servers or files of models, and hosts that are this machine."""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

from mlc_widget.api.group_folder import SCHEME

_HUBS: Final = ("huggingface.co", "hf.co")
_FILES: Final = (".gguf", ".safetensors", ".bin")


def looks_like_server(name: Any) -> bool:
    """Whether a name is the address of a server, or of a group's, rather than of a model."""
    if not isinstance(name, str):
        return False
    if name.lower().startswith(SCHEME):
        return True
    if not name.lower().startswith(("http://", "https://")):
        return False
    try:
        parts = urlsplit(name)
    except ValueError:
        return True  # whoever reads it says what is wrong
    host = (parts.hostname or "").removeprefix("www.")
    return host not in _HUBS and not parts.path.lower().endswith(_FILES)


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine's own for itself."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

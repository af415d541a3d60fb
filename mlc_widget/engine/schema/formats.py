"""Regular expressions for the usual texts of string formats; a format may allow others, too.

llguidance knows formats only within a JSON schema, where exclusions cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_DAY: Final = "(0[1-9]-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
"""Without the 29th of February, which few years have."""
_DATE: Final = f"[1-9][0-9]{{3}}-{_DAY}"
_HOUR_AND_MINUTE: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = rf"{_HOUR_AND_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_HOUR_AND_MINUTE})"
_OCTET: Final = "(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"
_LABEL: Final = "[A-Za-z0-9]+(-[A-Za-z0-9]+){0,4}"

USUAL_TEXTS: Final[Mapping[str, str]] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "ipv4": rf"({_OCTET}\.){{3}}{_OCTET}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,4}}",
    "email": rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+){{0,4}}@({_LABEL}\.){{1,4}}[A-Za-z]{{2,12}}",
    "uri": r"https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+){0,4}(:[1-9][0-9]{1,3})?(/[A-Za-z0-9._~-]*)*",
}

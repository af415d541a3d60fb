"""Reads JSON objects, with errors that name the field, its value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.api.request_values import shortened

_MISSING = object()

# Limits far above the values of any model, so that absurd values are refused at once.
MOST_FEATURES: Final = 1 << 20
MOST_HEADS: Final = 1 << 12
MOST_HEAD_DIM: Final = 1 << 12
MOST_LAYERS: Final = 1 << 10
MOST_TOKENS: Final = 1 << 24


class Fields:
    """A mapping from a file of the model, read field by field."""

    def __init__(self, values: Any, path: str, file: str = "mlc-chat-config.json") -> None:
        """Read `values`, the object at the dotted `path` of `file` ("" for the file itself).

        Raises:
            ModelFormatError: It is not an object.
        """
        self._prefix, self._file = f"{path}." if path else "", file
        if not isinstance(values, Mapping):
            raise ModelFormatError(
                f"{file}: {path or 'the content'} is {shortened(values)}; it must be an object.",
                param=path or file,
            )
        self._values = values

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """The value, or `default` if it is absent or null.

        Raises:
            ModelFormatError: It is absent and has no default.
        """
        value = self._values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise ModelFormatError(
                f"{self._file}: {self._prefix}{key} is missing, and has no default.",
                param=f"{self._prefix}{key}",
            )
        return default

    def positive_int(self, key: str, default: Any = _MISSING, *, most: int = 2**31 - 1) -> int:
        """A positive integer of at most `most`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.wrong(key, "must be a positive integer", value)
        if value > most:
            raise self.wrong(key, f"must be at most {most}", value)
        return value

    def positive_float(
        self, key: str, default: Any = _MISSING, *, least: float = 0.0, most: float = 1e30
    ) -> float:
        """A positive number from `least` to `most`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.wrong(key, "must be a positive number", value)
        if not least <= value <= most:  # an integer may be too large for a float
            raise self.wrong(key, f"must be between {least:g} and {most:g}", value)
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false", value)
        return value

    def wrong(self, key: str, must: str, value: Any = _MISSING) -> ModelFormatError:
        """The error that says what a field must be."""
        shown = self._values.get(key) if value is _MISSING else value
        return ModelFormatError(
            f"{self._file}: {self._prefix}{key} is {shortened(shown)}; it {must}.",
            param=f"{self._prefix}{key}",
        )

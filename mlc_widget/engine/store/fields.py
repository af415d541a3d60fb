"""Reads JSON objects, with errors that name the field, its value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.api.request_values import shortened

MISSING: Final = object()
"""The default of a field that has none."""

# Limits far above the values of any model, so that absurd values are refused at once.
MOST_FEATURES: Final = 1 << 20
MOST_HEADS: Final = 1 << 12
MOST_HEAD_DIM: Final = 1 << 12
MOST_LAYERS: Final = 1 << 10
MOST_TOKENS: Final = 1 << 24


class Fields:
    """A mapping from a file of the model, read field by field."""

    def __init__(
        self,
        values: Any,
        path: str,
        file: str = "mlc-chat-config.json",
        remedy: str = "Correct the file, or regenerate it with `mlc_llm gen_config`.",
    ) -> None:
        """Read `values`, the object at the dotted `path` of `file` ("" for the file itself).

        Args:
            values: The object.
            path: Where it is in the file.
            file: The file, for messages.
            remedy: What to do if a field is wrong, for messages.

        Raises:
            ModelFormatError: It is not an object.
        """
        self._prefix, self._file, self._remedy = f"{path}." if path else "", file, remedy
        if not isinstance(values, Mapping):
            raise ModelFormatError(
                f"{file}: {path or 'the content'} is {shortened(values)}; it must be an object. "
                f"{remedy}",
                param=path or file,
            )
        self._values = values

    def get(self, key: str, default: Any = MISSING) -> Any:
        """The value, or `default` if it is absent or null.

        Raises:
            ModelFormatError: It is absent and has no default.
        """
        value = self._values.get(key)
        if value is not None:
            return value
        if default is MISSING:
            raise ModelFormatError(
                f"{self._file}: {self._prefix}{key} is missing, and has no default. {self._remedy}",
                param=f"{self._prefix}{key}",
            )
        return default

    def has(self, key: str) -> bool:
        """Whether the field is there, be it null."""
        return key in self._values

    def positive_int(self, key: str, default: Any = MISSING, *, most: int = 2**31 - 1) -> int:
        """A positive integer of at most `most`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.wrong(key, "must be a positive integer", value)
        if value > most:
            raise self.wrong(key, f"must be at most {most}", value)
        return value

    def positive_float(
        self, key: str, default: Any = MISSING, *, least: float = 0.0, most: float = 1e30
    ) -> float:
        """A positive number from `least` to `most`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.wrong(key, "must be a positive number", value)
        if not least <= value <= most:  # an integer may be too large for a float
            raise self.wrong(key, f"must be between {least:g} and {most:g}", value)
        return float(value)

    def positive_floats(self, key: str, count: int) -> list[float]:
        """A list of `count` positive numbers."""
        values = self.get(key)
        if not isinstance(values, list) or len(values) != count:
            raise self.wrong(key, f"must be a list of {count} numbers")
        items = {str(i): value for i, value in enumerate(values)}
        fields = Fields(items, f"{self._prefix}{key}", self._file, self._remedy)
        return [fields.positive_float(name) for name in items]

    def string(self, key: str, default: Any = MISSING) -> str:
        """A string."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "must be a string", value)
        return value

    def strings(self, key: str, default: Any = MISSING) -> tuple[str, ...]:
        """A list of strings; one string stands for a list of it."""
        value = self.get(key, default)
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "must be a list of strings", value)
        return tuple(value)

    def choice(self, key: str, of: Sequence[str], default: Any = MISSING) -> str:
        """One of several strings."""
        value = self.get(key, default)
        if value not in of:
            raise self.wrong(key, f"must be {', '.join(of[:-1])} or {of[-1]}", value)
        return str(value)

    def nested(self, key: str) -> Fields:
        """The fields of an object within this one; without fields if it is absent or null."""
        return Fields(self.get(key, {}), f"{self._prefix}{key}", self._file, self._remedy)

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false", value)
        return value

    def wrong(self, key: str, must: str, value: Any = MISSING) -> ModelFormatError:
        """The error that says what a field must be."""
        shown = self._values.get(key) if value is MISSING else value
        return ModelFormatError(
            f"{self._file}: {self._prefix}{key} is {shortened(shown)}; it {must}. {self._remedy}",
            param=f"{self._prefix}{key}",
        )

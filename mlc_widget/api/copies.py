"""Refuses to pickle or copy objects that own threads, memory or a place on the page."""

from __future__ import annotations

from typing import Any, ClassVar, Final, NoReturn

ENGINES: Final = (
    "it belongs to an engine, which consists of threads and memory of this process. Pass the "
    "object itself, or make another engine where it is needed."
)
"""The `_instead` of an engine's parts."""


class NotCopyable:
    """Refuses `pickle`, `copy.copy` and `copy.deepcopy`, and says what to do.

    Name it before other bases that define these methods.
    """

    _instead: ClassVar[str]
    """Why, and what to do instead, as the end of a sentence and the next one."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied: {self._instead}")

    def __reduce__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)

"""Observes mlc_llm's background threads, which may die."""

from __future__ import annotations

import threading


class ThreadDeaths:
    """Records the exceptions that end threads which were started after it was made.

    mlc_llm does not report such exceptions. This installs a `threading.excepthook` that calls the
    previous one.
    """

    def __init__(self) -> None:
        self._before = frozenset(threading.enumerate())
        self._deaths: list[tuple[threading.Thread, BaseException | None]] = []
        self._previous = threading.excepthook
        threading.excepthook = self._hook

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        if args.thread is not None and args.thread not in self._before:
            self._deaths.append((args.thread, args.exc_value))
        self._previous(args)

    def born(self) -> list[threading.Thread]:
        """The living threads that were started since."""
        return [t for t in threading.enumerate() if t not in self._before]

    def first(self) -> BaseException | None:
        """The exception that ended the first thread to die; None if none has died."""
        return next((error for _, error in self._deaths), None)

    def of(self, thread: threading.Thread) -> BaseException | None:
        """The exception that ended this thread; None if unknown."""
        return next((error for dead, error in self._deaths if dead is thread), None)

    def close(self) -> None:
        """Restore the previous hook."""
        if threading.excepthook == self._hook:
            threading.excepthook = self._previous

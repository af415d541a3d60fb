"""mlc_llm's own threads, which may die."""

from __future__ import annotations

import threading


class ThreadDeaths:
    """Remembers which threads, born after it was made, died of which exception.

    mlc_llm's threads have no one to tell. It hooks in before the hook that is there.
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
        """Threads that are alive now and were not there before."""
        return [t for t in threading.enumerate() if t not in self._before]

    def first(self) -> BaseException | None:
        """What the first of them died of, if one has died."""
        return next((error for _, error in self._deaths), None)

    def of(self, thread: threading.Thread) -> BaseException | None:
        """What a thread died of, if it is known."""
        return next((error for dead, error in self._deaths if dead is thread), None)

    def close(self) -> None:
        """Stop listening."""
        if threading.excepthook == self._hook:
            threading.excepthook = self._previous

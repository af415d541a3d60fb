"""Compiles grammars of requests in a child process before the engine compiles them.

llguidance is native code: a hostile grammar can crash the process that compiles it, or keep it busy
forever. Here it crashes only `grammar_child`, and the request fails.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.api.safe_path import safe_path
from mlc_widget.engine import grammar_child
from mlc_widget.engine.schema.lark import TooCostlyError
from mlc_widget.engine.system import limits
from mlc_widget.engine.system.imports import import_llguidance

_CHILDREN: Final = 2
_WALL_S: Final = 60.0
"""Seconds to wait for an answer, even on a busy machine; the child limits its own CPU time."""
_REQUEST_S: Final = 10.0
"""Seconds of CPU time, here and in the children, for all grammars of one request."""
_KEPT: Final = 4096
CRASHED: Final = (
    "it cannot be compiled within the limits of depth, memory and time; make it smaller"
)


class _Budget(threading.local):
    """The CPU time that is left for the request on which a thread works; None without a limit."""

    left: float | None = None
    seen: float = 0.0


class GrammarChecker:
    """Compiles grammars in child processes. May be used from several threads."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_CHILDREN)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._owner = os.getpid()
        self._answers: OrderedDict[bytes, str] = OrderedDict()
        self._budget = _Budget()

    @contextlib.contextmanager
    def limited(self, at: str) -> Iterator[None]:
        """Limit the CPU time of all questions of this thread, and of the work between them.

        Within another limit it has no effect.

        Args:
            at: The request's field that is worked on.

        Raises:
            BadRequestError: It took too long.
        """
        if self._budget.left is not None:
            yield
            return
        self._budget.left, self._budget.seen = _REQUEST_S, time.thread_time()
        try:
            yield
        except TooCostlyError as error:
            raise BadRequestError(f"{at}: it {error}; make it smaller.", param=at) from None
        finally:
            self._budget.left = None

    def tick(self) -> None:
        """Count this thread's CPU time since the last tick.

        Raises:
            TooCostlyError: No time is left.
        """
        budget = self._budget
        if budget.left is None:
            return
        now = time.thread_time()
        budget.left -= now - budget.seen
        budget.seen = now
        if budget.left < 0:
            raise TooCostlyError("takes too long to compile")

    def problem(self, grammar: str) -> str:
        """Say what is wrong with a grammar; "" if nothing. Answers are cached.

        Raises:
            RuntimeUnavailableError: No process can be started, or llguidance is not installed.
            TooCostlyError: The time of `limited` is used up.
        """
        self.tick()
        key = hashlib.sha256(grammar.encode(errors="surrogatepass")).digest()
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        answer = self._ask({"grammar": grammar})
        found: str = answer["problem"]
        with self._lock:
            self._answers[key] = found
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return found

    def is_satisfiable(self, lark: str) -> bool:
        """Whether some text matches a grammar; true if that is not known."""
        found = self.problem(json.dumps({"grammars": [{"lark_grammar": lark}]}))
        return not (found == grammar_child.EMPTY or "Unsatisfiable" in found)

    def can_compile(self, lark: str) -> bool:
        """Whether a grammar can be used."""
        return not self.problem(json.dumps({"grammars": [{"lark_grammar": lark}]}))

    def lark(self, gbnf: str) -> tuple[str, str]:
        """Translate a grammar from llama.cpp's syntax to Lark's.

        Returns:
            The translation, and what is wrong with the grammar ("" if nothing).
        """
        answer = self._ask({"gbnf": gbnf})
        return answer.get("lark", ""), answer["problem"]

    def close(self) -> None:
        """End the idle processes; the next question starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            _end(child)

    def _ask(self, question: dict[str, str]) -> dict[str, Any]:
        with self._free:
            child = self._take()
            started = time.monotonic()
            answer = _answer(child, question)
            if self._budget.left is not None:  # if the child ended, its CPU time is not known
                used = grammar_child.CPU_S if answer is None else answer["seconds"]
                self._budget.left -= min(used, time.monotonic() - started)
            if answer is None:
                _end(child)
                if why := limits.lowered():  # which that process has inherited
                    raise RuntimeUnavailableError(
                        f"Structured output needs a second process, which ended: {why}."
                    )
                return {"problem": CRASHED}
            with self._lock:
                self._idle.append(child)
        return answer

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():  # a forked process: the children are its parent's
                self._owner, self._idle = os.getpid(), []
            while self._idle:
                child = self._idle.pop()
                if child.poll() is None:
                    return child
                _end(child)
        return _start()


def _start() -> subprocess.Popen[bytes]:
    llguidance = import_llguidance()
    packages = Path(str(llguidance.__file__)).parents[1]
    try:
        # As a script with a safe path (-P), so that no file beside the notebook is imported.
        return subprocess.Popen(
            [sys.executable, "-P", str(grammar_child.__file__), str(packages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **safe_path()},
        )
    except OSError as e:
        raise RuntimeUnavailableError(
            f"Structured output needs a second process, which cannot be started: {e}."
        ) from e


def _answer(child: subprocess.Popen[bytes], question: dict[str, str]) -> dict[str, Any] | None:
    """A child's answer; None if it died or took too long and was killed."""
    assert child.stdin is not None
    assert child.stdout is not None
    timer = threading.Timer(_WALL_S, child.kill)
    timer.daemon = True
    timer.start()
    try:
        child.stdin.write(json.dumps(question).encode() + b"\n")
        child.stdin.flush()
        line = child.stdout.readline()
        answer: dict[str, Any] = json.loads(line)
    except (OSError, ValueError):  # it has ended
        return None
    finally:
        timer.cancel()
    return answer


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


CHECKER: Final = GrammarChecker()
atexit.register(CHECKER.close)

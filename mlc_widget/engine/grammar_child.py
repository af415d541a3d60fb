"""The child process that compiles grammars first, so that only it crashes or runs forever.

This is a script of its own, which imports nothing of the package. Each line of its input is a
question in JSON, ``{"grammar": …}`` or ``{"gbnf": …}``; each line of its output is an answer,
``{"problem": …, "seconds": …}`` (of CPU time), for GBNF with ``lark``. It ends with its parent.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import threading
import time
from typing import Any, Final, cast

CPU_S: Final = 10
_MEMORY: Final = 2 * 1024**3
_STACK: Final = 4 * 1024**2
"""Half of the stack of the engine's threads, so that a grammar that fits here fits there."""
_STEPS: Final = 48
"""The number of bytes that are generated with a grammar after it was compiled."""
_PARENT_S: Final = 2.0
EMPTY: Final = "no text can match it"
COMPLEX: Final = "it has too many choices at one place; make it smaller"


class _Bytes:
    """A vocabulary of single bytes, with the interface that llguidance expects."""

    eos_token_id, bos_token_id, is_tokenizer_wrapper = 256, None, True
    tokens: Final = [*(bytes([i]) for i in range(256)), b"<eos>"]
    special_token_ids: Final = [256]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def _check(llguidance: Any, tokenizer: Any, grammar: str) -> str:
    """Say what is wrong with a grammar; "" if nothing."""
    problem: str = llguidance.LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        return COMPLEX if _is_limit(problem) else problem
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        problem = str(matcher.get_error())
        if _is_limit(problem):
            return COMPLEX
        # Special tokens of the model in a grammar are known only to the engine.
        return "" if "token" in problem else problem
    choose = random.Random(0)
    for step in range(_STEPS):
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(256) if mask[i // 8] >> (i % 8) & 1]
        if matcher.is_error() and not str(matcher.get_error()).startswith("NoExtension"):
            return COMPLEX
        if not allowed:
            return "" if step or matcher.is_accepting() else EMPTY
        if not matcher.consume_token(choose.choice(allowed)):
            return COMPLEX
        if matcher.is_stopped():
            break
    return ""


def _is_limit(problem: str) -> bool:
    """Whether a grammar is valid, but too much for llguidance."""
    return any(word in problem for word in ("panic", "too big", "fuel exhausted"))


def _answer(llguidance: Any, tokenizer: Any, question: dict[str, str]) -> dict[str, str]:
    if "grammar" in question:
        return {"problem": _check(llguidance, tokenizer, question["grammar"])}
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return {"problem": "", "lark": gbnf_to_lark(question["gbnf"])}
    except Exception as e:  # llguidance has no error classes of its own
        return {"problem": str(e) or type(e).__name__}


def _limit() -> None:
    """Set the limit of CPU time for the next question."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + CPU_S
    _lower(resource.RLIMIT_CPU, most)


def _lower(kind: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _wait_for_input(parent: int) -> None:
    """Wait for input or the parent's death, after which a fork of it may keep the pipe open."""
    while not select.select([0], [], [], _PARENT_S)[0]:
        if os.getppid() != parent:
            os._exit(0)


def main() -> None:
    """Answer questions until the input ends."""
    parent = os.getppid()
    sys.path.append(sys.argv[1])
    import resource  # POSIX only; the parent imports this module, too, and does without it

    import llguidance

    tokenizer = llguidance.LLTokenizer(cast("Any", _Bytes()))
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_AS, _MEMORY)
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    threading.stack_size(_STACK if stack < 0 else max(min(_STACK, stack // 2), 256 * 1024))
    source = os.fdopen(0, "rb", buffering=0)
    rest = b""
    while True:
        while b"\n" not in rest:
            _wait_for_input(parent)
            read = source.read(1 << 20)
            if not read:
                return
            rest += read
        line, _, rest = rest.partition(b"\n")
        question = json.loads(line)
        _limit()
        made: list[dict[str, str]] = []
        started = time.process_time()
        thread = threading.Thread(
            target=lambda: made.append(_answer(llguidance, tokenizer, question))  # noqa: B023
        )
        thread.start()
        thread.join()
        answer: dict[str, Any] = {**(made[0] if made else {"problem": "it cannot be compiled"})}
        answer["seconds"] = time.process_time() - started
        sys.stdout.write(json.dumps(answer))
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

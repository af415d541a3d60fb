"""The end of a process while threads are in native code: its exit status is right.

Each child has a thread in C++ at its end, in a call that takes `NATIVE_S`, and reports when that
begins. Without an order in which threads end, `std::terminate` ends such a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from ....kinds import but_for_soak
from .conftest import DEADLINE, GOLDEN, ROOT

NATIVE_S = 0.7
NAME = "gqa-tied-q4f32_1"

PREAMBLE = f"""
import asyncio, os, signal, sys, threading, time
from pathlib import Path
import tvm_ffi
from mlc_widget import AsyncMLCEngine, MLCEngine, create_mlc_engine
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.engine.runtimes.tvm import compiled, executor, loading, scheduler, shutdown

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
begun = threading.Event()

def take_long():
    begun.set()
    end = time.monotonic() + {NATIVE_S}
    while time.monotonic() < end:  # it comes back to the interpreter at any time
        time.sleep(0.001)

def native():
    tvm_ffi.convert(take_long)()   # Python, C++, Python

MODEL = {str(GOLDEN / NAME)!r}
OPTIONS = {{"cache_dir": sys.argv[1]}}
PROMPT = dict(prompt=[5, 6, 7], max_tokens=3, temperature=0)

# Other tests need this model's code in this mode too, so it is compiled once.
MODE = dict(numerics="faithful")

async def make():
    engine = AsyncMLCEngine(runtime="tvm", runtime_options=OPTIONS)
    await engine.reload(MODEL, MODE)
    return engine
"""


def end_of(code: str, cache_dir: object) -> tuple[int, str]:
    """Exit status and output of a child that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), str(cache_dir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout.strip()


TEARDOWN_IS_SLOW = """
executor.Executor.__del__ = lambda self: native()
"""

CASES = {
    "an engine that is not unloaded": (
        TEARDOWN_IS_SLOW,
        """
        async def main():
            engine = await make()
            await engine.completions.create(**PROMPT)
        asyncio.run(main())
        """,
        0,
    ),
    "an engine that is kept": (
        TEARDOWN_IS_SLOW,
        """
        async def main():
            global engine
            engine = await make()
            await engine.completions.create(**PROMPT)
        asyncio.run(main())
        """,
        0,
    ),
    "several runs of asyncio": (
        TEARDOWN_IS_SLOW,
        """
        async def main():
            engine = await make()
            await engine.completions.create(**PROMPT)
        for _ in range(3):
            asyncio.run(main())
        """,
        0,
    ),
    "an exit status": (
        TEARDOWN_IS_SLOW,
        """
        async def main():
            engine = await make()
            sys.exit(3)
        asyncio.run(main())
        """,
        3,
    ),
    "while generating": (
        """
        step = executor.Executor.run
        def run(self, spans):
            native()
            return step(self, spans)
        """,
        """
        async def main():
            global keep
            engine = await make()
            executor.Executor.run = run
            keep = asyncio.create_task(engine.completions.create(**PROMPT))
            await asyncio.to_thread(begun.wait)
            sys.exit(4)
        asyncio.run(main())
        """,
        4,
    ),
    "a blocking engine, Ctrl-C": (
        """
        step = executor.Executor.run
        def run(self, spans):
            native()
            return step(self, spans)
        """,
        """
        engine = MLCEngine(runtime="tvm", runtime_options=OPTIONS)
        engine.reload(MODEL, MODE)
        executor.Executor.run = run
        def interrupt():
            begun.wait()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            engine.completions.create(**PROMPT)
        except KeyboardInterrupt:
            sys.exit(5)
        """,
        5,
    ),
    "while loading": (
        """
        find = loading.executable_of
        def slow(*args, **kwargs):
            native()
            return find(*args, **kwargs)
        loading.executable_of = slow
        """,
        """
        async def main():
            global keep
            keep = asyncio.create_task(make())
            await asyncio.to_thread(begun.wait)
            sys.exit(6)
        asyncio.run(main())
        """,
        6,
    ),
    "the engine's own thread": (
        "",
        """
        async def main():
            global engine
            engine = await make()
            HomeLoop.shared().call_soon(native)
            await asyncio.to_thread(begun.wait)
            sys.exit(7)
        asyncio.run(main())
        """,
        7,
    ),
    "sys.exit on a thread": (
        TEARDOWN_IS_SLOW,
        """
        def work():
            async def main():
                engine = await make()
                await engine.completions.create(**PROMPT)
                sys.exit(9)
            asyncio.run(main())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
        0,
    ),
}


@pytest.mark.parametrize(
    "case",
    but_for_soak(
        CASES,
        "an engine that is kept",
        "several runs of asyncio",
        "an exit status",
        "a blocking engine, Ctrl-C",
        "sys.exit on a thread",
    ),
)
def test_the_exit_status_is_what_it_was_to_be(cache_dir, case):
    patches, code, expected = CASES[case]
    status, said = end_of(textwrap.dedent(patches) + textwrap.dedent(code), cache_dir)
    assert status == expected, said
    assert "terminate" not in said
    assert "never retrieved" not in said


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_sixty_processes_that_do_not_unload_end_well(cache_dir):
    """With a real model, the factory and nothing patched, two at a time beside two busy ones."""
    code = """
    async def main():
        engine = await create_mlc_engine("demo")
        answer = await engine.chat.completions.create(
            messages=[{"role": "user", "content": "Hello!"}], max_tokens=5)
        print(answer.usage.completion_tokens)
    asyncio.run(main())
    """
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda _: end_of(code, cache_dir), range(60)))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [end for end in ends if end != (0, "5")] == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="forks, and looks at its threads")
def test_a_forked_child_ends_at_once(cache_dir):
    """It forks while no thread is ending: OpenSSL holds a lock then, for which a child that was
    forked in that moment waits at its exit, whatever program it is."""
    code = """
    started = set()
    set_native_id = threading.Thread._set_native_id
    def noted(thread):
        set_native_id(thread)
        started.add(thread.native_id)
    threading.Thread._set_native_id = noted
    def ending():
        ended = started - {thread.native_id for thread in threading.enumerate()}
        return ended & {int(task) for task in os.listdir("/proc/self/task")}
    async def main():
        global engine
        engine = await make()
        await engine.completions.create(**PROMPT)
    asyncio.run(main())
    sys.stdout.flush()
    while ending():
        time.sleep(0.001)
    shutdown._STEP_S = 3600  # a child that waited for its parent's threads would never end
    child = os.fork()
    if child == 0:
        sys.exit(11)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
    sys.exit(12)
    """
    assert end_of(code, cache_dir) == (12, "11")


def test_an_engine_that_is_called_after_its_thread_ended_says_so(cache_dir):
    code = """
    import atexit
    from mlc_widget.api import home_loop
    engine = MLCEngine(runtime="tvm", runtime_options=OPTIONS)
    engine.reload(MODEL, MODE)
    def late():
        try:
            engine.completions.create(**PROMPT)
        except RuntimeError as e:
            print(e)
    atexit.unregister(home_loop._park)
    atexit.register(late)
    atexit.register(home_loop._park)
    """
    assert end_of(code, cache_dir) == (
        0,
        "the process is ending: an engine can no longer be called",
    )

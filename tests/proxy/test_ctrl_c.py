"""Ctrl-C in a program with a blocking engine ends that call and nothing else."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..kinds import but_for_soak

_PROGRAM = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from mlc_widget import KernelMLCEngine
hello = [{"role": "user", "content": "Hello!"}]
with KernelMLCEngine(
    runtime="scripted", runtime_options={"text": "one two", "repeat": 10**6, "pace_s": 0.005}
) as engine:
    engine.reload(sys.argv[1])
    def tell():  # not before: what is imported meanwhile may swallow an interrupt
        while not engine.metrics()["running_requests"]:
            time.sleep(0.01)
        print("begun", flush=True)
    threading.Thread(target=tell, daemon=True).start()
    try:
        CALL
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    while engine.metrics()["running_requests"]:
        time.sleep(0.01)
    answer = engine.chat.completions.create(messages=hello, max_tokens=2)
    print(answer.choices[0].message.content, flush=True)
"""

CALLS = {
    "whole": "engine.chat.completions.create(messages=hello)",
    "stream": "for _ in engine.chat.completions.create(messages=hello, stream=True): pass",
}


@pytest.mark.parametrize("call", but_for_soak(CALLS, "whole"))
async def test_ctrl_c_ends_the_call(tiny_model: Path, call: str) -> None:
    code = _PROGRAM.replace("CALL", CALLS[call])
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tiny_model), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert await program.stdout.readline() == b"begun\n"
    program.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(program.communicate(), 60)
    assert out.decode().splitlines() == ["interrupted", "one two"], err.decode()
    assert program.returncode == 0
    assert err == b""

# ruff: noqa: N806, N812 - TVMScript
"""One engine with one model, asked for timings on standard input and answering in JSON.

``python _kernel_worker.py tvm FOLDER THREADS`` or ``… llama.cpp FILE THREADS FLASH``, the latter in
llama.cpp's environment. A line ``prefill N`` runs a prompt of N tokens from nothing; ``decode C N``
runs N tokens, one by one, each after C others. Both give wall and process CPU seconds.
``memory`` gives the resident bytes; ``bandwidth`` the bytes read per second (tvm alone).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CONTEXT = 2560


class Engine(Protocol):
    """Runs tokens after `start` others, which were run before."""

    info: dict[str, Any]

    def run(self, tokens: list[int], start: int) -> None:
        """Run `tokens` at positions `start` and on, to the logits of the last."""


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, model: str, threads: int, flash: bool) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            model, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_batch=2048,
            n_ubatch=512, flash_attn=flash, verbose=False,
        )  # fmt: skip
        info = llama_cpp.llama_print_system_info().decode()
        self.info = {"version": llama_cpp.__version__, "system_info": info}

    def run(self, tokens: list[int], start: int) -> None:
        """As `Engine.run`."""
        self._llama.n_tokens = start  # eval forgets what lies beyond
        self._llama.eval(tokens)
        self._llama._ctx.get_logits()


class Tvm:
    """The engine's executor, on a compute thread as in the engine, in the engine's chunks."""

    def __init__(self, model: str, threads: int, chunk: int = 128) -> None:
        from mlc_widget.engine.runtimes.base import ModelSource
        from mlc_widget.engine.runtimes.tvm.executor import Span
        from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
        from mlc_widget.engine.runtimes.tvm.options import TVMOptions
        from mlc_widget.engine.runtimes.tvm.threads import ComputeThread

        folder = Path(model)
        config = json.loads((folder / "mlc-chat-config.json").read_text())
        tokenizer: Any = None  # token ids in, logits out
        source = ModelSource(folder.name, folder, config, tokenizer)
        options = {"threads": threads, "max_total_sequence_length": CONTEXT}
        self._executor, _ = make_executor(
            source, TVMOptions.parse(options), Progress(lambda *a, **k: None, threading.Event())
        )
        self._thread = ComputeThread.take(threads)
        self._span, self._chunk = Span, chunk
        self._call(self._executor.prepare)
        weights, kv = self._executor.weight_bytes, self._executor.kv_bytes
        self.info = {"weights": weights, "kv": kv, "kv_per_token": kv // CONTEXT}

    def run(self, tokens: list[int], start: int) -> None:
        """As `Engine.run`."""
        self._call(lambda: self._steps(tokens, start))

    def _steps(self, tokens: list[int], start: int) -> None:
        pages = range(-(-(start + len(tokens)) // self._executor.page_size))
        for at in range(0, len(tokens), self._chunk):
            part = tokens[at : at + self._chunk]
            last = [len(part) - 1] if at + len(part) == len(tokens) else []
            self._executor.run([self._span(part, start + at, list(pages), last)])

    def _call(self, work: Callable[[], object]) -> None:
        done = threading.Event()
        failure: list[BaseException] = []

        def body() -> None:
            try:
                work()
            except BaseException as e:
                failure.append(e)
            done.set()

        self._thread.run(body)
        done.wait()
        if failure:
            raise failure[0]

    def bandwidth(self, nbytes: int = 1 << 29) -> float:
        """Bytes per second that as many threads read from memory, summing vectors; best of 5."""
        import numpy as np
        import tvm
        from tvm.script import tirx as T

        from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros, as_tensor
        from mlc_widget.engine.runtimes.tvm.target import host_target

        @T.prim_func(s_tir=True)
        def read(x: T.handle, y: T.handle):
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True, "global_symbol": "read"})
            n = T.int64()
            X = T.match_buffer(x, (n, 4096), "int32")
            Y = T.match_buffer(y, (n, 16), "int32")
            for i in T.parallel(n):
                with T.sblock("part"):
                    T.reads()
                    T.writes()
                    total = T.sblock_alloc_buffer((8, 16), "int32", scope="local")
                    for j in T.unroll(8):
                        total.vstore([j, 0], T.broadcast(T.int32(0), 16))
                    for k in T.serial(32):
                        for j in T.unroll(8):
                            total.vstore(
                                [j, 0],
                                total.vload([j, 0], "int32x16")
                                + X.vload([i, k * 128 + j * 16], "int32x16"),
                            )
                    for j in T.unroll(8):
                        Y.vstore(
                            [i, 0], Y.vload([i, 0], "int32x16") + total.vload([j, 0], "int32x16")
                        )

        x = aligned_zeros((nbytes // 16384, 4096), np.int32)
        x.fill(1)
        y = aligned_zeros((nbytes // 16384, 16), np.int32)
        function = tvm.tirx.build(read, target=host_target().tvm_target())["read"]
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            self._call(lambda: function(as_tensor(x), as_tensor(y)))
            best = max(best, nbytes / (time.perf_counter() - start))
        return best


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def _timed(work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    kind, model, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind == "tvm":
        from mlc_widget.engine.runtimes.tvm import loading, machine, threads  # noqa: F401

        machine.start()
    else:
        import llama_cpp  # noqa: F401 - imports are no part of loading a model
    before = _resident()
    engines: list[Engine] = []

    def load() -> None:
        flash = kind != "tvm" and sys.argv[4] == "1"
        engines.append(Tvm(model, workers) if kind == "tvm" else LlamaCpp(model, workers, flash))

    loaded = _timed(load)
    engine = engines[0]
    reply: dict[str, Any] = {"load": loaded, "resident_before": before, **engine.info}
    print(json.dumps(reply), flush=True)
    filled = 0
    for line in sys.stdin:
        command, *numbers = line.split()
        n = [int(x) for x in numbers]
        if command == "prefill":
            reply = _timed(lambda n=n: engine.run([i % 1000 for i in range(n[0])], 0))
            filled = n[0]
        elif command == "decode":
            if filled < n[0]:
                engine.run([i % 1000 for i in range(n[0])], 0)
            filled = n[0]

            def steps(n: list[int] = n) -> None:
                for _ in range(n[1]):
                    engine.run([5], n[0])

            steps([n[0], 1])
            reply = _timed(steps)
        elif command == "memory":
            reply = {"resident": _resident()}
        elif command == "bandwidth":
            assert isinstance(engine, Tvm)
            reply = {"bytes_per_s": engine.bandwidth()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

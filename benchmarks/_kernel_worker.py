# ruff: noqa: N806, N812 - TVMScript
"""One engine with one model, asked for timings on standard input and answering in JSON.

``python _kernel_worker.py tvm MODEL THREADS [TOTAL]``, the model being an MLC folder or a GGUF
file, or in llama.cpp's environment ``… llama.cpp FILE THREADS FLASH [TOTAL]``; TOTAL tokens fit
into the KV cache. A line ``prefill N`` runs a prompt of N tokens from nothing; ``decode C N`` runs
N tokens, one by one, each after C others; ``turn C A N`` runs C tokens, A one by one after them for
an answer, and then, which is timed, N together in the place of the answer. These give wall and
process CPU seconds. ``settle`` does what an engine does when it is idle. ``memory`` fills the KV
cache and gives the resident bytes, and how many of them are of no file. ``python _kernel_worker.py
memory - THREADS`` has no engine, and answers ``bandwidth`` by the bytes per second that so many
threads read, and ``spin`` by the times of a loop that does nothing.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

CONTEXT = 4352
"""Tokens of a sequence at most."""


class Engine(Protocol):
    """Runs tokens after `start` others, which were run before."""

    info: dict[str, Any]

    def fill(self) -> None:
        """Have every byte of the KV cache written."""

    def run(self, tokens: list[int], start: int) -> None:
        """Run `tokens` at positions `start` and on, to the logits of the last."""


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, model: str, threads: int, flash: bool, total: int) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            model, n_ctx=total, n_threads=threads, n_threads_batch=threads, n_batch=2048,
            n_ubatch=512, flash_attn=flash, verbose=False,
        )  # fmt: skip
        info = llama_cpp.llama_print_system_info().decode()
        self.info = {"version": llama_cpp.__version__, "system_info": info}

    def run(self, tokens: list[int], start: int) -> None:
        """As `Engine.run`."""
        self._llama.n_tokens = start  # eval forgets what lies beyond
        self._llama.eval(tokens)
        self._llama._ctx.get_logits()

    def fill(self) -> None:
        """As `Engine.fill`: it writes zeros when it loads. The rest is for what a step needs."""
        self.run([i % 1000 for i in range(CONTEXT)], 0)


@functools.cache
def has_vocabulary(path: Path) -> bool:
    """Whether a GGUF file has the tokens of its model; those with random weights have none."""
    from mlc_widget.engine.store.formats.gguf_file import GGUFModel

    with GGUFModel(path) as model:
        return "tokenizer.ggml.tokens" in model.fields


def model_source(path: Path, **changes: Any) -> Any:
    """A `ModelSource` of an MLC folder without its tokenizer, or of a GGUF file.

    Args:
        path: The folder or file. Where the file has a vocabulary, its tokenizer is made.
        changes: Of the configuration.
    """
    from mlc_widget.engine.runtimes.base import ModelSource
    from mlc_widget.engine.store.formats.gguf_config import chat_config, interleaved_heads
    from mlc_widget.engine.store.formats.gguf_file import GGUFModel
    from mlc_widget.engine.store.formats.gguf_weights import GGUFWeights
    from mlc_widget.engine.store.stored_model import read_model
    from mlc_widget.engine.store.tensor_cache import TensorCache
    from mlc_widget.engine.text.tokenizer import Tokenizer

    tokenizer: Any = None  # token ids in, logits out
    if path.suffix != ".gguf":
        config = json.loads((path / "mlc-chat-config.json").read_text())
        return ModelSource(
            path.name,
            path,
            {**config, **changes},
            tokenizer,
            partial(TensorCache.from_folder, path),
        )
    if not has_vocabulary(path):
        with GGUFModel(path) as model:
            config, headers = chat_config(model), model.headers

        def weights() -> GGUFWeights:
            opened = GGUFModel(path, headers)
            return GGUFWeights(opened, interleaved_heads(opened))

        return ModelSource(path.name, path, {**config, **changes}, tokenizer, weights)
    stored = read_model(path, {})
    assert stored.tokenizer is not None
    tokenizer = Tokenizer.from_spec(stored.tokenizer, path)
    config = {**stored.config, **changes}
    return ModelSource(path.name, path, config, tokenizer, stored.open_weights)


class Tvm:
    """The engine's executor, on a compute thread as in the engine, in the engine's chunks."""

    def __init__(self, model: str, threads: int, total: int, chunk: int = 128) -> None:
        from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
        from mlc_widget.engine.runtimes.tvm.options import TVMOptions
        from mlc_widget.engine.runtimes.tvm.step_inputs import Span
        from mlc_widget.engine.runtimes.tvm.threads import ComputeThread

        options = {"threads": threads, "max_total_sequence_length": total}
        self._executor, _ = make_executor(
            model_source(Path(model)),
            TVMOptions.parse(options),
            Progress(lambda *a, **k: None, threading.Event()),
        )
        self._thread = ComputeThread.take(threads)
        self._span, self._chunk = Span, chunk
        _call(self._thread, self._executor.prepare)
        weights, kv = self._executor.weight_bytes, self._executor.kv_bytes
        self.info = {"weights": weights, "kv": kv, "kv_per_token": kv // total}

    def run(self, tokens: list[int], start: int) -> None:
        """As `Engine.run`."""
        _call(self._thread, lambda: self._steps(tokens, start))

    def settle(self) -> None:
        """Do what an engine does between a load and the first request.

        That includes keeping a copy of the weights, if there is none, for the next load to map.
        """
        if (saving := self._executor.save_weights(lambda: False)) is not None:
            saving.join()

        def work() -> None:
            while self._executor.settle():
                pass

        _call(self._thread, work)

    def fill(self) -> None:
        """As `Engine.fill`: a full chunk is run, and its first page copied to all others."""

        def work() -> None:
            self._steps([i % 1000 for i in range(self._chunk)], 0)
            for page in range(1, self._executor.pages):
                self._executor.copy_page(0, page)

        _call(self._thread, work)

    def _steps(self, tokens: list[int], start: int) -> None:
        pages = range(-(-(start + len(tokens)) // self._executor.page_size))
        for at in range(0, len(tokens), self._chunk):
            part = tokens[at : at + self._chunk]
            last = [len(part) - 1] if at + len(part) == len(tokens) else []
            self._executor.run([self._span(part, start + at, list(pages), last)])


def _call(thread: Any, work: Callable[[], object]) -> None:
    """Run `work` on a compute thread, and wait for it."""
    done = threading.Event()
    failure: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as e:
            failure.append(e)
        done.set()

    thread.run(body)
    done.wait()
    if failure:
        raise failure[0]


class Memory:
    """Reads memory as fast as it can: 512 MB on huge pages, summed as vectors."""

    def __init__(self, threads: int) -> None:
        import numpy as np
        import tvm
        from tvm.script import tirx as T

        from mlc_widget.engine.runtimes.tvm.kernels.isa import in_registers, prefetch
        from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros, as_tensor, large_zeros
        from mlc_widget.engine.runtimes.tvm.target import host_target
        from mlc_widget.engine.runtimes.tvm.threads import ComputeThread

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
                    total = in_registers((4, 16), "int32")
                    for j in T.unroll(4):
                        total.vstore([j, 0], T.broadcast(T.int32(0), 16))
                    for k in T.serial(64):
                        for j in T.unroll(4):
                            prefetch(X, [i, k * 64 + j * 16 + 1024])
                        for j in T.unroll(4):
                            total.vstore(
                                [j, 0],
                                total.vload([j, 0], "int32x16")
                                + X.vload([i, k * 64 + j * 16], "int32x16"),
                            )
                    for j in T.unroll(4):
                        Y.vstore(
                            [i, 0], Y.vload([i, 0], "int32x16") + total.vload([j, 0], "int32x16")
                        )

        self._nbytes = 1 << 29
        x = large_zeros((self._nbytes // 16384, 4096), np.int32, huge=True)
        x.fill(1)
        y = aligned_zeros((self._nbytes // 16384, 16), np.int32)
        self._read = tvm.tirx.build(read, target=host_target().tvm_target())["read"]
        self._args = as_tensor(x), as_tensor(y)
        self._thread = ComputeThread.take(threads)

    def bandwidth(self) -> float:
        """Bytes per second; the best of 3."""
        best = 0.0
        for _ in range(3):
            start = time.perf_counter()
            _call(self._thread, lambda: self._read(*self._args))
            best = max(best, self._nbytes / (time.perf_counter() - start))
        return best


def _resident(what: str = "VmRSS") -> int:
    """Bytes in memory: all, or of ``RssAnon`` those that are of no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {what}")


def _timed(work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _spin() -> None:
    for _ in range(2_000_000):
        pass


def main() -> None:
    kind, model, workers, *rest = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
    flash = rest.pop(0) == "1" if kind == "llama.cpp" else False
    total = int(rest[0]) if rest else CONTEXT
    if kind == "memory":
        memory = Memory(workers)
        print(json.dumps({}), flush=True)
        for line in sys.stdin:
            told = _timed(_spin) if line == "spin\n" else {"bytes_per_s": memory.bandwidth()}
            print(json.dumps(told), flush=True)
        return
    if kind == "tvm":
        # Imports are no part of loading a model: a worker has done them before.
        from mlc_widget.engine import model as load_model  # noqa: F401
        from mlc_widget.engine.runtimes.tvm import loading, machine, threads  # noqa: F401

        machine.start()
        if model.endswith(".gguf"):
            has_vocabulary(Path(model))
    else:
        import llama_cpp  # noqa: F401
    before = _resident()
    engines: list[Engine] = []

    def load() -> None:
        if kind == "tvm":
            engines.append(Tvm(model, workers, total))
        else:
            engines.append(LlamaCpp(model, workers, flash, total))

    loaded = _timed(load)
    engine = engines[0]
    # Only ours runs a step while it loads, so the time to the first logits is told, too.
    first = _timed(lambda: engine.run([5], 0))
    reply: dict[str, Any] = {
        "load": loaded,
        "first token": {clock: loaded[clock] + first[clock] for clock in loaded},
        "resident_before": before,
        **engine.info,
    }
    print(json.dumps(reply), flush=True)
    filled, settled = 0, False
    for line in sys.stdin:
        command, *numbers = line.split()
        n = [int(x) for x in numbers]
        if isinstance(engine, Tvm) and not settled:  # not in a process that only loads
            engine.settle()
            settled = True
        if command == "settle":
            reply = {}
        elif command == "prefill":
            reply = _timed(lambda n=n: engine.run([i % 1000 for i in range(n[0])], 0))
            filled = n[0]
        elif command == "decode":
            if filled < n[0]:
                engine.run([i % 1000 for i in range(filled, n[0])], filled)
            filled = n[0]  # llama.cpp forgets what lies beyond

            def steps(n: list[int] = n) -> None:
                for _ in range(n[1]):
                    engine.run([5], n[0])

            steps([n[0], 1])
            reply = _timed(steps)
        elif command == "turn":
            engine.run([i % 1000 for i in range(n[0])], 0)
            for i in range(n[1]):
                engine.run([5], n[0] + i)
            new = [7 * i % 1000 for i in range(n[2])]
            reply = _timed(lambda n=n, new=new: engine.run(new, n[0]))
            filled = n[0] + n[2]
        elif command == "memory":
            engine.fill()
            reply = {"resident": _resident(), "anonymous": _resident("RssAnon")}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

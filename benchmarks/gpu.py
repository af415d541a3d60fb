"""Correctness and speed on an NVIDIA GPU.

    python benchmarks/gpu.py                         # all, in 4 minutes on an H200 and 16 cores
    python benchmarks/gpu.py --only golden           # or some of the parts below
    python benchmarks/gpu.py --only speed --shapes 8B --quantizations q4f16_1

- golden: compares the logits of the tiny fixtures at every position, over chunks that cross pages,
  with transformers' in float32 (the relative L2 error must be below 3e-3), and those computed in a
  batch with those computed alone (all bits must be equal).
- speed: decodes at batch sizes 1 to 32 after 128 tokens, and alone after 4,000 and 16,000, and
  prefills, with the shapes of Llama-3.2-1B and Llama-3.1-8B and random weights in float16 and
  4 bits. Each figure comes with its share of a bound: of decoding, the speed that memory bandwidth
  allows if weights, keys and values are read once per step; of prefill, also that of a large
  product of matrices (by torch, where that is installed). Then it draws tokens in steps of 32
  sequences, on the GPU where that can be and from all logits on the host.
- families: the same for the shapes of Gemma 3 1B, and a quarter of Phi-4-mini and SmolLM3
  (by layers), in 4 bits at batch size 1, after 128 and 4,000 tokens.
- load: loads models of these shapes from their caches in a fresh worker, to the first token. It
  needs 20 GB in the folder for temporary files.
- transformers: measures the same shapes in float16 in the same run: greedy decoding at batch size 1
  with torch.compile and a static cache, and prefill with and without torch.compile. Needs torch
  and transformers.

A decode step is measured from the greedy tokens of one step on the host to those of the next; once
the same sequences have gone on for some steps, the GPU has begun with it by then (`lookahead`).
Before anything is measured, all code is compiled, by several processes at once. The last lines are
a table of all figures that there are goals for.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools")]
import mlc_format  # noqa: E402

from benchmarks._gpu_load import LOADS, Loads  # noqa: E402
from benchmarks._gpu_models import LLAMAS, Model, compile_all, random_model  # noqa: E402
from benchmarks._kernel_models import SHAPES, mlc_config  # noqa: E402
from benchmarks._process import Process  # noqa: E402
from benchmarks._stats import median_of  # noqa: E402
from mlc_widget.api.errors import RuntimeUnavailableError  # noqa: E402
from mlc_widget.engine.runtimes.base import ModelSource, Sampling  # noqa: E402
from mlc_widget.engine.runtimes.tvm.cuda import cudart  # noqa: E402
from mlc_widget.engine.runtimes.tvm.cuda.lookahead import SURE  # noqa: E402
from mlc_widget.engine.runtimes.tvm.draws import Draw  # noqa: E402
from mlc_widget.engine.runtimes.tvm.executor import Executor  # noqa: E402
from mlc_widget.engine.runtimes.tvm.options import TVMOptions  # noqa: E402
from mlc_widget.engine.runtimes.tvm.sampler import Sampler  # noqa: E402
from mlc_widget.engine.runtimes.tvm.step_inputs import Span  # noqa: E402
from mlc_widget.engine.store.tensor_cache import TensorCache  # noqa: E402

PARTS = ("golden", "speed", "families", "load", "transformers")
FAMILIES = ("Gemma-3-1B", "Phi-4-mini-8-layers", "SmolLM3-9-layers")
FIXTURES = REPOSITORY / "tests" / "fixtures" / "architectures"
CASES = [
    ("llama", "q0f16"), ("llama", "q4f16_1"), ("mistral", "q4f16_1"), ("qwen2", "q8f16_1"),
    ("qwen2", "q4f16_0"), ("qwen3", "q0f16"), ("qwen3", "q4f16_1"), ("llama", "q4f32_1"),
]  # fmt: skip
LIMIT = 3e-3


def executor_of(folder: Path, **options: Any) -> Executor:
    """A model folder's executor on the GPU."""
    from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor

    config = json.loads((folder / "mlc-chat-config.json").read_text())
    source = ModelSource(
        folder.name, folder, config, None, partial(TensorCache.from_folder, folder)
    )  # type: ignore[arg-type]
    progress = Progress(lambda *a, **k: None, threading.Event())
    executor, _ = make_executor(source, TVMOptions.parse({"device": "cuda", **options}), progress)
    executor.prepare()
    return executor


def quantized_folder(name: str, quantization: str, folder: Path) -> Path:
    """A fixture in another quantization."""
    shutil.copytree(FIXTURES / name, folder)
    mlc_format.requantize(folder, quantization)
    return folder


def logits_of(executor: Executor, steps: list[dict[str, list[int]]]) -> dict[str, np.ndarray]:
    """Logits of every position of sequences that take `steps`."""
    free = list(range(executor.pages))
    pages: dict[str, list[int]] = {}
    length: dict[str, int] = {}
    out: dict[str, list[np.ndarray]] = {}
    for step in steps:
        spans = []
        for name, tokens in step.items():
            start = length.get(name, 0)
            held = pages.setdefault(name, [])
            while len(held) * executor.page_size < start + len(tokens):
                held.append(free.pop(0))
            spans.append(Span(tokens, start, held, range(len(tokens))))
            length[name] = start + len(tokens)
        rows = executor.run(spans).copy()
        for name, tokens in step.items():
            out.setdefault(name, []).append(rows[: len(tokens)])
            rows = rows[len(tokens) :]
    return {name: np.concatenate(rows) for name, rows in out.items()}


def golden() -> bool:
    """Compare the fixtures; True if all hold."""
    good = True
    with tempfile.TemporaryDirectory() as root:
        for name, quantization in CASES:
            began = time.perf_counter()
            folder = quantized_folder(name, quantization, Path(root) / f"{name}-{quantization}")
            executor = executor_of(folder)
            took = time.perf_counter() - began
            prompt = np.load(FIXTURES / name / "prompt.npy").tolist()
            reference = np.load(FIXTURES / name / f"{quantization}.npz")["logits"]
            alone = logits_of(
                executor, [{"a": prompt[:30]}, {"a": prompt[30:60]}, {"a": prompt[60:]}]
            )
            company: list[dict[str, list[int]]] = []
            at = 0
            for count in [17, 1, 1, 1, 30, 2, 32]:
                company.append({"b": [5], "c": [7, 9], "a": prompt[at : at + count], "d": [3]})
                at += count
            together = logits_of(executor, company)["a"]
            error = np.linalg.norm(alone["a"] - reference) / np.linalg.norm(reference)
            same = np.array_equal(alone["a"], together)
            agree = (alone["a"].argmax(1) == reference.argmax(1)).mean()
            good = good and bool(error < LIMIT) and same
            print(
                f"{name:8} {quantization:8} relative L2 {error:.1e}  argmax equal {agree:.0%}  "
                f"bitwise in a batch: {same}  ready in {took:.1f} s",
                flush=True,
            )
    return good


def bandwidth() -> float:
    """Bytes per second that a copy on the GPU reads and writes."""
    import tvm

    device = tvm.cuda(0)
    source, target = (tvm.runtime.empty((1 << 30,), "float32", device) for _ in range(2))
    times = []
    for _ in range(12):
        device.sync()
        began = time.perf_counter()
        source.copyto(target)
        device.sync()
        times.append(time.perf_counter() - began)
    return 2 * 4 * (1 << 30) / statistics.median(times[2:])


def token_bytes(executor: Any) -> int:
    """The size of a token's keys and values."""
    s = executor.shape
    return int(2 * 2 * s.layers * s.kv_heads * s.head_dim)


@dataclass
class Machine:
    """What bounds a GPU's speed, as measured.

    Attributes:
        bandwidth: Bytes per second that a copy reads and writes.
        products: Operations per second of a large product of matrices; 0 if not measured.
    """

    bandwidth: float
    products: float = 0.0


@dataclass
class Figures:
    """What was measured, by name, for the table at the end."""

    rows: dict[str, tuple[float, str, float]] = field(default_factory=dict)

    def note(self, name: str, value: float, unit: str, share: float) -> None:
        """Keep a figure, with its share of its bound."""
        self.rows[name] = (value, unit, share)

    def ratio(self, name: str, over: str) -> float | None:
        """One figure over another, if both were measured."""
        both = [self.rows[n][0] for n in (name, over) if n in self.rows]
        return both[0] / both[1] if len(both) == 2 else None


def decode(
    executor: Any,
    batch: int,
    nbytes: int,
    machine: Machine,
    name: str,
    figures: Figures,
    after: int = 128,
) -> None:
    """Time greedy decoding after some tokens; tokens per second of all sequences together."""
    pages = pages_of(executor, batch)
    fill(executor, pages, after)
    length, tokens = after, [5] * batch

    def spans() -> list[Span]:
        return [Span([t], length, held, [0], 0.0) for t, held in zip(tokens, pages, strict=True)]

    def step() -> None:
        nonlocal length, tokens
        tokens = [row.token for row in executor.run(spans())]
        length += 1

    def step_on_the_gpu() -> None:
        executor.launch(spans())
        cudart.synchronize()

    median_of(step, 2 * SURE)
    seconds = median_of(step, 100)
    alone = median_of(step_on_the_gpu, 50)
    bound = (nbytes + batch * token_bytes(executor) * length) / machine.bandwidth
    label = f"{name} decode batch {batch}" + (f" after {after}" if after != 128 else "")
    figures.note(label, batch / seconds, "tok/s", bound / seconds)
    print(
        f"{label}: {batch / seconds:8.0f} tok/s, {seconds * 1e3:.3f} ms a step "
        f"({alone * 1e3:.3f} without its token on the host), {bound / seconds:.0%} of the bound",
        flush=True,
    )


def pages_of(executor: Any, batch: int) -> list[list[int]]:
    """An equal part of all pages for each of some sequences."""
    each = executor.pages // batch
    return [list(range(each * b, each * (b + 1))) for b in range(batch)]


def fill(executor: Any, pages: list[list[int]], tokens: int) -> None:
    """Run the first tokens of sequences."""
    for held in pages:
        for at in range(0, tokens, executor.usual_rows):
            executor.run([Span([7] * min(executor.usual_rows, tokens - at), at, held)])


def prefill(
    executor: Any,
    prompt: int,
    nbytes: int,
    machine: Machine,
    name: str,
    figures: Figures,
    weights: int = 0,
) -> None:
    """Time a prompt in the chunks that the scheduler uses."""
    pages = list(range(-(-prompt // executor.page_size)))
    starts = range(0, prompt, executor.usual_rows)

    def run() -> None:
        for at in starts:
            count = min(executor.usual_rows, prompt - at)
            last = [count - 1] if at + count == prompt else []
            executor.run([Span([9] * count, at, pages, last)])

    run()
    seconds = median_of(run, 5)
    read = len(starts) * nbytes + token_bytes(executor) * (sum(starts) + prompt)
    bound, operations = read / machine.bandwidth, 2 * weights * prompt
    if machine.products:
        bound = max(bound, operations / machine.products)
    label = f"{name} prefill {prompt}"
    figures.note(label, prompt / seconds, "tok/s", bound / seconds)
    if weights:
        figures.note(f"{label}, products", operations / seconds / 1e12, "TFLOP/s", bound / seconds)
    print(
        f"{label}: {prompt / seconds:8.0f} tok/s, {bound / seconds:.0%} of the bound"
        + (f", {operations / seconds / 1e12:.0f} TFLOP/s" if weights else ""),
        flush=True,
    )


def layer_weights(config: dict[str, Any]) -> int:
    """The weights of all layers, each of which is multiplied with each token."""
    heads = 2 * (config["num_attention_heads"] + config["num_key_value_heads"])
    each = heads * config["head_dim"] + 3 * config["intermediate_size"]
    return int(config["num_hidden_layers"] * config["hidden_size"] * each)


DRAWS: dict[str, dict[str, Any]] = {
    "temperature 0": {"temperature": 0.0},
    "top_k 40": {"top_k": 40},
    "top_p 0.95": {"top_p": 0.95},
    "no filter": {},
    "no filter, half of the tokens allowed": {},
    "no filter, 5 top_logprobs": {"logprobs": True, "top_logprobs": 5},
    "top_k 20, penalties of 2000 tokens": {"top_k": 20, "repetition_penalty": 1.1},
    "temperature 0, penalties of 2000 tokens": {"temperature": 0.0, "presence_penalty": 1.0},
}


def span_to_draw(held: list[int], sampler: Sampler) -> Span:
    """What to run for the token at position 129."""

    def draws(vocab_size: int) -> list[Draw | None]:
        return [sampler.draw(129, vocab_size)]

    told = None if sampler.temperature_suffices else draws
    return Span([5], 128, held, [0], sampler.draws_at(), told)


class Half:
    """Stands for a grammar that allows half of the tokens, in no time."""

    def __init__(self, vocab_size: int) -> None:
        self._mask: np.ndarray = np.arange(vocab_size) % 2 == 0

    def allowed(self, vocab_size: int) -> np.ndarray:
        """Which tokens may come next."""
        return self._mask[:vocab_size]


def draw(executor: Any, name: str, batch: int = 32) -> None:
    """Time the choice of tokens: of what the GPU returns, and of all logits on the host."""
    pages = pages_of(executor, batch)
    fill(executor, pages, 128)
    vocabulary = SimpleNamespace(token_bytes=bytes, is_special=lambda token: False)

    def forward() -> None:
        executor.launch([Span([5], 128, held, [0], 0.0) for held in pages])
        cudart.synchronize()

    median_of(forward, 5)
    alone = median_of(forward, 20)
    for label, given in DRAWS.items():
        values = {"max_tokens": None, "temperature": 1.0, "top_p": 1.0, **given}
        half: Any = Half(executor.vocab) if "allowed" in label else None
        prompt = list(range(2000 if "penalties" in label else 1))
        samplers = []
        for i in range(batch):
            samplers.append(Sampler(Sampling(seed=i, **values), prompt, vocabulary, half))
            if "presence_penalty" in given:
                for token in prompt:
                    samplers[i].remember(token)

        def step(here: bool, samplers: list[Sampler] = samplers) -> None:
            spans = [
                span_to_draw(held, sampler) if here else Span([5], 128, held, [0])
                for held, sampler in zip(pages, samplers, strict=True)
            ]
            rows = executor.run(spans)
            for sampler, row in zip(samplers, rows, strict=True):
                sampler.sample(row, 129)

        both = []
        for of in (True, False):
            step(of)
            both.append(median_of(partial(step, of), 10))
        here, all_logits = both
        print(
            f"{name} choosing {batch} tokens, {label}: {(here - alone) * 1e3:.2f} ms, "
            f"{(all_logits - alone) * 1e3:.2f} from all logits; "
            f"a step {here * 1e3:.2f} ms, {here / all_logits:.0%} of {all_logits * 1e3:.2f}",
            flush=True,
        )


def speed(shape: str, quantization: str, machine: Machine, figures: Figures) -> None:
    """Decode, prefill, and draw tokens."""
    executor, nbytes = random_model(Model(quantization, LLAMAS[shape]), 16384)
    name = f"{shape} {quantization}"
    for batch in (1, 2, 4, 8, 32):
        decode(executor, batch, nbytes, machine, name, figures)
    for after in (4000, 16000):
        decode(executor, 1, nbytes, machine, name, figures, after)
    weights = layer_weights(LLAMAS[shape])
    for prompt in (128, 256, 1024, 4096):
        prefill(executor, prompt, nbytes, machine, name, figures, weights)
    draw(executor, name)


def family(name: str) -> Model:
    """A model of another family."""
    config = mlc_config(name)
    return Model("q4f16_1", config["model_config"], SHAPES[name]["model_type"])


def families(machine: Machine, figures: Figures) -> None:
    """Decode and prefill with shapes of other families."""
    for name in FAMILIES:
        executor, nbytes = random_model(family(name), 4352)
        for after in (128, 4000):
            decode(executor, 1, nbytes, machine, name, figures, after)
        prefill(executor, 1024, nbytes, machine, name, figures)
        del executor


class Peer(Process):
    """transformers in a process of its own, which has compiled all of a shape; see `_gpu_peer`."""

    def __init__(self, shape: str) -> None:
        places = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        super().__init__(sys.executable, "_gpu_peer.py", shape, PYTHONPATH=os.pathsep.join(places))


def peers_of(started: dict[str, Future[Peer]]) -> dict[str, Peer]:
    """Those that could be started."""
    there = {}
    for shape, peer in started.items():
        try:
            there[shape] = peer.result()
        except RuntimeError as error:
            print(f"transformers, {shape}: not measured: {error}", flush=True)
        else:
            print(f"transformers, {shape}: {there[shape].started}", flush=True)
    return there


def measure_products(peer: Peer, machine: Machine) -> None:
    """Have torch measure a large product."""
    machine.products = peer.ask("products")["products"]


def compare(peers: dict[str, Peer], figures: Figures) -> None:
    """Measure the peers, and print our figures over theirs."""
    for shape, peer in peers.items():
        try:
            theirs = peer.ask("measure")
        except RuntimeError as error:
            print(f"transformers, {shape}: {error}", flush=True)
            continue
        for name, value in theirs.items():
            own = f"{shape} q0f16 {name.split(',')[0]}"
            line = f"transformers {shape} {name}: {value:8.0f} tok/s"
            if own in figures.rows:
                line += f"; ours {figures.rows[own][0] / value:.2f} × as fast"
            print(line, flush=True)
            figures.note(f"transformers {shape} {name}", value, "tok/s", 0.0)
        peer.close()


def summary(figures: Figures) -> None:
    """Print the figures that there are goals for, as a table."""
    goals: list[tuple[str, float, str, float | None]] = []
    for name, goal in (
        ("8B q4f16_1 decode batch 1", 0.75),
        ("1B q4f16_1 decode batch 1", 0.60),
        ("8B q4f16_1 decode batch 8", 0.65),
        ("8B q4f16_1 decode batch 32", 0.65),
        ("1B q0f16 decode batch 1", 0.78),
        ("8B q0f16 decode batch 1 after 16000", 0.75),
        ("8B q4f16_1 decode batch 1 after 16000", 0.75),
    ):
        if name in figures.rows:
            goals.append((f"{name}, share of the bound", goal, "", figures.rows[name][2]))
    names = [f"8B {q} prefill {n}, products" for q in ("q0f16", "q4f16_1") for n in (1024, 4096)]
    goals += [(n, 450, " TFLOP/s", figures.rows[n][0]) for n in names if n in figures.rows]
    for over, under, goal in (
        ("8B q4f16_1 decode batch 1", "8B q0f16 decode batch 1", 3.0),
        ("1B q0f16 prefill 1024", "transformers 1B prefill 1024, compiled", 1.2),
        ("1B q0f16 decode batch 1", "transformers 1B decode batch 1", 1.0),
        ("8B q0f16 decode batch 1", "transformers 8B decode batch 1", 1.0),
    ):
        goals.append((f"{over} / {under}", goal, " ×", figures.ratio(over, under)))
    for name, quantization, seconds in LOADS:
        label = f"{name} {quantization} load"
        if label in figures.rows:
            goals.append((f"{label} (at most)", seconds, " s", figures.rows[label][0]))
    print("\n| figure | measured | goal |\n| --- | --- | --- |")
    for label, goal, unit, value in goals:
        if value is not None:
            text = [f"{v:.0%}" if not unit else f"{v:.3g}{unit}" for v in (value, goal)]
            print(f"| {label} | {text[0]} | {text[1]} |")
    sys.stdout.flush()


@dataclass
class Prepared:
    """What has been started before anything is measured, by name."""

    peers: dict[str, Future[Peer]]
    loads: dict[tuple[str, str], Future[None]]


def prepare_all(args: argparse.Namespace, parts: Sequence[str], loads: Loads) -> Prepared:
    """Compile, write and start all that will be measured, at the same time."""
    began, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
    models = [Model(q, LLAMAS[s]) for s in args.shapes for q in args.quantizations]
    models = models * ("speed" in parts) + [family(n) for n in FAMILIES] * ("families" in parts)
    with ThreadPoolExecutor() as threads, ProcessPoolExecutor(len(LOADS), spawn) as processes:
        shapes = args.shapes if "transformers" in parts else ()
        peers = {shape: threads.submit(Peer, shape) for shape in shapes}
        named = [(n, q) for n, q, _ in LOADS if "load" in parts]
        written = {names: processes.submit(loads.write, *names) for names in named}
        compile_all(models)
    print(f"prepared in {time.perf_counter() - began:.0f} s", flush=True)
    return Prepared(peers, written)


def measure_loads(prepared: Prepared, loads: Loads, figures: Figures) -> None:
    """Load what could be written."""
    for name, quantization, goal in LOADS:
        prepared.loads[name, quantization].result()
        seconds = loads.measure(name, quantization, goal)
        figures.note(f"{name} {quantization} load", seconds, "s", goal / seconds)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", nargs="+", choices=list(LLAMAS), default=list(LLAMAS))
    kinds = ("q0f16", "q4f16_1", "q8f16_1")
    parser.add_argument("--quantizations", nargs="+", choices=kinds, default=kinds[:2])
    args = parser.parse_args()
    from mlc_widget.engine.runtimes.tvm.cuda.target import prepare

    try:
        prepare()
    except RuntimeUnavailableError as error:
        print(f"Nothing to measure here: {error}")
        return
    with tempfile.TemporaryDirectory(prefix="mlc_widget-gpu-") as root:
        good = run(args, Loads(Path(root)))
    if not good:
        raise SystemExit("a part failed, or the golden logits do not hold")


def run(args: argparse.Namespace, loads: Loads) -> bool:
    """Run the parts; whether none failed, and the golden logits hold if they are among these."""
    parts, good = args.only, True

    def do(part: Callable[[], object]) -> None:
        """Run a part; if it fails, the others are measured all the same."""
        nonlocal good
        try:
            good = part() is not False and good
        except Exception:
            traceback.print_exc(file=sys.stdout)
            good = False

    if "golden" in parts:
        do(golden)
    prepared = prepare_all(args, parts, loads)
    peers = peers_of(prepared.peers)
    machine, figures = Machine(bandwidth()), Figures()
    for peer in list(peers.values())[:1]:
        do(partial(measure_products, peer, machine))
    print(
        f"a copy on the GPU moves {machine.bandwidth / 1e12:.2f} TB/s"
        + f", products run at {machine.products / 1e12:.0f} TFLOP/s" * bool(machine.products),
        flush=True,
    )
    if "load" in parts:
        do(lambda: measure_loads(prepared, loads, figures))
    if "speed" in parts:
        for shape in args.shapes:
            for quantization in args.quantizations:
                do(partial(speed, shape, quantization, machine, figures))
    if "families" in parts:
        do(lambda: families(machine, figures))
    do(lambda: compare(peers, figures))
    summary(figures)
    return good


if __name__ == "__main__":
    main()

"""Correctness and speed on an NVIDIA GPU.

    python benchmarks/gpu.py                 # all
    python benchmarks/gpu.py --only golden   # or speed, families, or transformers
    python benchmarks/gpu.py --only speed --shapes 8B --quantizations q4f16_1

- golden: compares the logits of the tiny fixtures at every position, over chunks that cross pages,
  with transformers' in float32 (the relative L2 error must be below 3e-3), and those computed in a
  batch with those computed alone (all bits must be equal).
- speed: decodes at batch sizes 1 to 32 after 128 tokens, and alone after 4,000 and 16,000, and
  prefills, with the shapes of Llama-3.2-1B and Llama-3.1-8B and random weights in float16 and
  4 bits. Each figure comes with its share of the speed that memory bandwidth allows if weights,
  keys and values are read once per step, and prefill also with its products' TFLOP/s.
- families: the same for the shapes of Gemma 3 1B, and a quarter of Phi-4-mini and SmolLM3
  (by layers), in 4 bits at batch size 1, after 128 and 4,000 tokens.
- transformers: measures the same shapes in float16 in the same run: greedy decoding at batch size 1
  with torch.compile and a static cache, and prefill without them. Needs torch and transformers.

A step is measured from the token ids on the host to the greedy token on the host.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools")]
import mlc_format  # noqa: E402

from mlc_widget.api.errors import RuntimeUnavailableError  # noqa: E402
from mlc_widget.engine.runtimes.base import ModelSource  # noqa: E402
from mlc_widget.engine.runtimes.tvm.executor import Executor, Span  # noqa: E402
from mlc_widget.engine.runtimes.tvm.options import TVMOptions  # noqa: E402
from mlc_widget.engine.store.tensor_cache import TensorCache  # noqa: E402

LLAMA_1B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "position_embedding_base": 500000,
}
LLAMA_8B: dict[str, Any] = {
    **LLAMA_1B,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
LLAMAS = {"1B": LLAMA_1B, "8B": LLAMA_8B}
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


def random_model(
    quantization: str, tokens: int, model_type: str = "llama", config: Any = None
) -> tuple[Executor, int]:
    """Llama-3.2-1B's shapes, or others, with random weights on the GPU, and their bytes."""
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import compile_module, make_program, trace
    from mlc_widget.engine.runtimes.tvm.cuda.compiler import install
    from mlc_widget.engine.runtimes.tvm.cuda.executor import CudaExecutor
    from mlc_widget.engine.runtimes.tvm.cuda.target import local_target
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import attention_part, attention_rows
    from mlc_widget.engine.runtimes.tvm.layouts import PAGE
    from mlc_widget.engine.runtimes.tvm.quantization import quantization_of

    architecture = architecture_of(model_type, config or LLAMA_1B)
    target = local_target()
    install(target.arch)
    weights = quantization_of(quantization)
    program = make_program(architecture, weights, target, "float16")
    compiled = compile_module(trace(program), program.target)
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(1 << 22).astype(np.float32)
    words = rng.integers(0, 1 << 32, 1 << 22, dtype=np.uint32)
    arrays = []
    for name, layout in program.parameters:
        if layout.dtype == "uint32":
            arrays.append(np.resize(words, layout.shape))
        elif name.endswith("q_scale"):
            arrays.append(np.full(layout.shape, 0.005, layout.dtype))
        elif len(layout.shape) == 1:
            arrays.append(np.ones(layout.shape, layout.dtype))
        else:
            arrays.append(np.resize((0.02 * normal).astype(layout.dtype), layout.shape))
    nbytes = sum(a.nbytes for a in arrays)
    executor = CudaExecutor(
        compiled.jit(), architecture.shape, arrays, page_size=PAGE, pages=-(-tokens // PAGE),
        context=tokens, vocab=architecture.shape.vocab_size,
        max_rows=program.max_rows, usual_rows=program.usual_rows,
        attention_rows=attention_rows(weights, "float16", target, architecture.shape),
        attention_part=attention_part(weights, "float16", target, architecture.shape),
        kv_dtype="float16",
    )  # fmt: skip
    executor.prepare()
    return executor, nbytes


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


def median_of(step: Callable[[], None], repeat: int) -> float:
    """Median seconds of a step."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def token_bytes(executor: Any) -> int:
    """The size of a token's keys and values."""
    s = executor.shape
    return int(2 * 2 * s.layers * s.kv_heads * s.head_dim)


def decode(
    executor: Any, batch: int, nbytes: int, peak: float, name: str, after: int = 128
) -> float:
    """Tokens per second of greedy decoding after some tokens, all sequences together."""
    each = executor.pages // batch
    pages = [list(range(each * b, each * (b + 1))) for b in range(batch)]
    for held in pages:
        for at in range(0, after, executor.usual_rows):
            executor.run([Span([7] * min(executor.usual_rows, after - at), at, held)])
    length, tokens = after, [5] * batch

    def spans() -> list[Span]:
        return [Span([t], length, held, [0], 0.0) for t, held in zip(tokens, pages, strict=True)]

    def step() -> None:
        nonlocal length, tokens
        tokens = [row.token for row in executor.run(spans())]
        length += 1

    def step_on_the_gpu() -> None:
        executor.launch(spans())
        executor._device.sync()

    median_of(step, 10)
    seconds = median_of(step, 100)
    alone = median_of(step_on_the_gpu, 50)
    bound = (nbytes + batch * token_bytes(executor) * length) / peak
    print(
        f"{name} decode batch {batch}: {batch / seconds:8.0f} tok/s, {seconds * 1e3:.3f} ms a step "
        f"({alone * 1e3:.3f} without its token on the host), {bound / seconds:.0%} of the bound",
        flush=True,
    )
    return batch / seconds


def prefill(
    executor: Any, prompt: int, nbytes: int, peak: float, name: str, weights: int = 0
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
    bound = (len(starts) * nbytes + token_bytes(executor) * (sum(starts) + prompt)) / peak
    print(
        f"{name} prefill {prompt}: {prompt / seconds:8.0f} tok/s, "
        f"{bound / seconds:.0%} of the bound"
        + (f", {2 * weights * prompt / seconds / 1e12:.0f} TFLOP/s" if weights else ""),
        flush=True,
    )


def layer_weights(config: dict[str, Any]) -> int:
    """The weights of all layers, each of which is multiplied with each token."""
    heads = 2 * (config["num_attention_heads"] + config["num_key_value_heads"])
    each = heads * config["head_dim"] + 3 * config["intermediate_size"]
    return int(config["num_hidden_layers"] * config["hidden_size"] * each)


def speed(shapes: Sequence[str], quantizations: Sequence[str]) -> dict[str, float]:
    """Decode and prefill; tokens per second by name."""
    peak = bandwidth()
    print(f"a copy on the GPU moves {peak / 1e12:.2f} TB/s", flush=True)
    result: dict[str, float] = {}
    for shape in shapes:
        for quantization in quantizations:
            executor, nbytes = random_model(quantization, 16384, config=LLAMAS[shape])
            name = f"{shape} {quantization}"
            for batch in (1, 2, 4, 8, 32):
                result[f"{name} batch {batch}"] = decode(executor, batch, nbytes, peak, name)
            for after in (4000, 16000):
                decode(executor, 1, nbytes, peak, f"{name} after {after}:", after)
            for prompt in (128, 256, 1024, 4096):
                prefill(executor, prompt, nbytes, peak, name, layer_weights(LLAMAS[shape]))
            del executor
    return result


def families() -> None:
    """Decode and prefill with shapes of other families."""
    from _kernel_models import SHAPES, mlc_config

    peak = bandwidth()
    for name in ("Gemma-3-1B", "Phi-4-mini-8-layers", "SmolLM3-9-layers"):
        config = mlc_config(name)
        executor, nbytes = random_model(
            "q4f16_1", 4352, SHAPES[name]["model_type"], config["model_config"]
        )
        for after in (128, 4000):
            decode(executor, 1, nbytes, peak, f"{name} after {after}:", after)
        prefill(executor, 1024, nbytes, peak, name)
        del executor


def transformers_decode() -> float:
    """Tokens per second of transformers with torch.compile and a static cache, batch 1."""
    import torch
    import transformers

    same = {k: v for k, v in LLAMA_1B.items() if k != "position_embedding_base"}
    config = transformers.LlamaConfig(
        **same, max_position_embeddings=4096, rope_parameters={"rope_type": "default",
        "rope_theta": 500000.0},
    )  # fmt: skip
    torch.set_grad_enabled(False)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.float16)
        model = transformers.LlamaForCausalLM(config).eval()
    cache = transformers.StaticCache(config=config, max_cache_len=1024)
    step = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    ids = torch.full((1, 128), 7, device="cuda")
    model(ids, past_key_values=cache, cache_position=torch.arange(128, device="cuda"))
    token = torch.full((1, 1), 5, device="cuda")
    at = [128]

    def decode() -> None:
        nonlocal token
        position = torch.tensor([at[0]], device="cuda")
        logits = step(
            token, past_key_values=cache, cache_position=position, position_ids=position[None]
        ).logits
        token = logits[:, -1:].argmax(-1).clone()
        token.item()
        at[0] += 1

    prompt = torch.full((1, 1024), 7, device="cuda")

    def prefill() -> None:
        model(prompt, use_cache=True, logits_to_keep=1).logits.argmax(-1).item()

    prefill()
    print(f"transformers prefill 1024: {1024 / median_of(prefill, 5):8.0f} tok/s", flush=True)
    median_of(decode, 20)
    seconds = median_of(decode, 100)
    print(
        f"transformers {transformers.__version__}, torch {torch.__version__}, float16, "
        f"torch.compile, static cache: {1 / seconds:.0f} tok/s, {seconds * 1e3:.3f} ms a step",
        flush=True,
    )
    return 1 / seconds


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("golden", "speed", "families", "transformers"))
    parser.add_argument("--shapes", nargs="+", choices=list(LLAMAS), default=list(LLAMAS))
    kinds = ("q0f16", "q4f16_1", "q8f16_1")
    parser.add_argument("--quantizations", nargs="+", choices=kinds, default=kinds[:2])
    args = parser.parse_args()
    only = args.only
    from mlc_widget.engine.runtimes.tvm.cuda.target import prepare

    try:
        prepare()
    except RuntimeUnavailableError as error:
        print(f"Nothing to measure here: {error}")
        return
    good = golden() if only in (None, "golden") else True
    ours = speed(args.shapes, args.quantizations) if only in (None, "speed") else {}
    if only in (None, "families"):
        families()
    theirs = transformers_decode() if only in (None, "transformers") else 0.0
    own = ours.get("1B q0f16 batch 1")
    if own and theirs:
        print(f"decode at batch 1, float16, 1B: {own / theirs:.2f} × transformers")
    if not good:
        raise SystemExit("the logits are not within the limit")


if __name__ == "__main__":
    main()

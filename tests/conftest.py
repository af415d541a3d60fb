"""Fixtures that many tests share: a tiny real model, and engines that are always terminated."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine

from .compiled import folder_of_compiled, tidy

# jsonschema imports it, if it is there, to check IRIs, which no schema here has. It compiles 38
# grammars, which takes more than a second in each process.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

# Looking for garbage after every 700 new objects takes several per cent of the tests' time. Those
# that need a collection ask for it, and each module begins with one.
gc.set_threshold(20_000, 10, 10)

DEADLINE_S = 60.0
"""Only catches hangs: no test waits this long when the code is right."""


def write_tiny_model(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """A two-layer Llama with random weights, in MLC format: real files, no sense."""
    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    sys.path.append(str(Path(__file__).parent.parent / "tools"))
    import mlc_format

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["hello world how are you"] * 10, trainer)
    hidden, vocab = 64, tokenizer.get_vocab_size()
    random = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    norms = ["model.norm.weight"]
    for i in range(2):
        at = f"model.layers.{i}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (64, hidden),
            f"{at}self_attn.k_proj.weight": (32, hidden),
            f"{at}self_attn.v_proj.weight": (32, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, 64),
            f"{at}mlp.gate_proj.weight": (128, hidden),
            f"{at}mlp.up_proj.weight": (128, hidden),
            f"{at}mlp.down_proj.weight": (hidden, 128),
        }
        norms += [f"{at}input_layernorm.weight", f"{at}post_attention_layernorm.weight"]
    weights = {n: random.standard_normal(s).astype("float32") * 0.3 for n, s in shapes.items()}
    weights |= {n: np.ones(hidden, "float32") for n in norms}
    mlc_format.write_model(
        folder,
        params=mlc_format.llama_params(weights, "q4f32_1"),
        config={
            "hidden_size": hidden,
            "intermediate_size": 128,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "rms_norm_eps": 1e-5,
            "vocab_size": vocab,
            "position_embedding_base": 10000,
            "context_window_size": 4096,
            "prefill_chunk_size": 128,
            "tie_word_embeddings": True,
            **config,
        },
        quantization="q4f32_1",
        tokenizer_json=tokenizer.to_str(),
    )
    return folder


def pytest_sessionstart() -> None:
    """Make room before the first process runs tests; the others come after it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        tidy()


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Spare garbage collections what was there before the module's tests.

    Thousands of collected tests and imported packages make each collection take up to a second,
    and many tests collect often.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for this run of all tests, in however many processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache_dir(shared_folder: Path) -> Path:
    """Compiled code, shared by all tests, and kept for the next run of the same sources."""
    return folder_of_compiled(shared_folder / "compiled")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that every runtime can load. Read only."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `tiny_model`, with other weights."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


KernelEngineFactory = Callable[..., Awaitable[AsyncKernelMLCEngine]]
DirectEngineFactory = Callable[..., Awaitable[AsyncMLCEngine]]


@pytest_asyncio.fixture
async def kernel_engine(tiny_model: Path) -> AsyncIterator[KernelEngineFactory]:
    """Makes engines on the scripted runtime in a real worker kernel, and terminates them.

    ``load=False`` leaves the model to the test; what is no argument of the engine is the script's.
    """
    async with _engines(AsyncKernelMLCEngine, tiny_model) as make:
        yield make


@pytest_asyncio.fixture
async def direct_engine(tiny_model: Path) -> AsyncIterator[DirectEngineFactory]:
    """Like `kernel_engine`, in this process."""
    async with _engines(AsyncMLCEngine, tiny_model) as make:
        yield make


@contextlib.asynccontextmanager
async def _engines(engine_class: type[Any], model: Path) -> AsyncIterator[Callable[..., Any]]:
    engines: list[Any] = []

    async def make(*, load: bool = True, **options: Any) -> Any:
        engine = engine_class(**_with_script(options, engine_class))
        engines.append(engine)
        if load:
            await engine.reload(str(model))
        return engine

    try:
        yield make
    finally:
        for engine in engines:
            await engine.terminate()


def _with_script(options: dict[str, Any], engine: type) -> dict[str, Any]:
    """Options of the engine, with all that are not its own made its script."""
    import inspect

    if "runtime" in options:
        return options
    own = inspect.signature(engine).parameters
    script = {name: value for name, value in options.items() if name not in own}
    kept = {name: value for name, value in options.items() if name in own}
    return {"runtime": "scripted", "runtime_options": script, **kept}


_GOLDEN = "cuda|exit|golden|invariance|loading|numerics|runtime"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `make test` (`--dist loadfile`), keep together what shares something costly.

    That is a file, by its module's fixtures; all of the browser's tests, by JupyterLab;
    tests/conformance on one engine, by that engine; and what runs the models of
    tests/fixtures/golden, by their compiled code, which two processes would compile at once.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            if file.startswith("tests/browser/"):
                return "browser"
            if re.match(rf"tests/engine/runtimes/tvm/test_({_GOLDEN})\.py", file):
                return "golden models"
            engine = re.search(r"\[((?:direct|kernel)(?:-async)?)\b", name)
            return engine[1] if file.startswith("tests/conformance/") and engine else file

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end how many tests were skipped, and why."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reasons[str(reason).removeprefix("Skipped: ")] += 1
    terminalreporter.section(f"{reasons.total()} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5} {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "which engines tests/conformance runs on")
    group.addoption("--runtime", default="tvm", help="the runtime")
    group.addoption("--runtime-options", default="{}", help="its options, in JSON")
    group.addoption("--model-folder", default="", help="a model; a tiny one is made otherwise")
    group.addoption("--worker-python", default="", help="the interpreter of the workers")
    group.addoption(
        "--engines", default="", help="direct, kernel, direct-async or kernel-async; all otherwise"
    )

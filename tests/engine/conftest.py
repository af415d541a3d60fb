"""A random model with a tokenizer that knows words and JSON, and engines that count VM calls."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from mlc_widget import AsyncMLCEngine

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import mlc_format

from ..waiting import until, until_blocking

DEADLINE = 60.0
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CALL_MARKS = ("<tool_call>", "</tool_call>")
THOUGHT_MARKS = ("<think>", "</think>")
CORPUS = """
the weather in Paris is mild today and the answer to the question is in the text below it
{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius", "days": 3}}
{"id": 17, "title": "An example", "tags": ["a", "b"], "price": 12.5, "active": true, "note": null}
[{"type": "object", "value": false}, {"type": "array", "value": [1, 2, 3]}], "description": ""}
"""


def tokenizer_json(size: int = 512, marks: Sequence[str] = CALL_MARKS) -> str:
    """A byte-level BPE tokenizer with ChatML's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(marks),
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS.splitlines() * 5, trainer)
    tokenizer.add_tokens([AddedToken(m, special=False, normalized=False) for m in marks])
    text: str = tokenizer.to_str()
    return text


def write_model(
    folder: Path,
    *,
    vocab: int = 512,
    hidden: int = 64,
    layers: int = 2,
    context: int = 2048,
    spread: float = 1.0,
    template: dict[str, Any] | None = None,
    marks: Sequence[str] = CALL_MARKS,
) -> Path:
    """A Llama with random weights; `spread` is about the standard deviation of its logits."""
    random = np.random.default_rng(3)
    wide = 2 * hidden
    text = tokenizer_json(vocab, marks)

    def matrix(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)

    state = {
        "model.embed_tokens.weight": matrix(vocab, hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": matrix(vocab, hidden) * np.float32(spread),
    }
    for i in range(layers):
        at = f"model.layers.{i}."
        for name, rows, columns in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", hidden // 2, hidden),
            ("self_attn.v_proj", hidden // 2, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", wide, hidden),
            ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ]:
            state[f"{at}{name}.weight"] = matrix(rows, columns) * np.float32(1.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{at}{name}.weight"] = np.ones(hidden, np.float32)
    return mlc_format.write_model(
        folder,
        params=mlc_format.llama_params(state, "q4f32_1", tie_word_embeddings=False),
        config={
            "hidden_size": hidden,
            "intermediate_size": wide,
            "num_attention_heads": 2,
            "num_hidden_layers": layers,
            "num_key_value_heads": 1,
            "head_dim": hidden // 2,
            "rms_norm_eps": 1e-5,
            "vocab_size": vocab,
            "position_embedding_base": 10000,
            "context_window_size": context,
            "prefill_chunk_size": 128,
            "tie_word_embeddings": False,
        },
        quantization="q4f32_1",
        conv_template={**mlc_format.CHATML_TEMPLATE, **(template or {})},
        tokenizer_json=text,
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model. Read only."""
    return write_model(tmp_path_factory.mktemp("models") / "random")


class Steps:
    """Counts the calls of the compiled model, and the rows that each computed.

    `held` keeps the model from its next step until all that is awaited has come; `pause_after` lets
    it run so many more, until `go_on`.
    """

    def __init__(self, engine: AsyncMLCEngine) -> None:
        executor = scheduler_of(engine).executor
        # The step that warms the model up before its first one is not among those counted.
        until_blocking(lambda: executor.steps or executor._trimmed)
        program = executor._program
        forwards = {name: getattr(program, name) for name in ("_forward", "_forward_one")}
        self.rows: list[int] = []
        self._scheduler = scheduler_of(engine)
        self._moved = threading.Condition()
        self._pause_at = sys.maxsize
        self._restore = lambda: vars(program).update(forwards)

        def counted(forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                with self._moved:
                    self._moved.wait_for(lambda: len(self.rows) < self._pause_at, DEADLINE)
                self.rows.append(int(args[0].shape[0]))
                return forward(*args)

            return call

        vars(program).update({name: counted(f) for name, f in forwards.items()})

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        return sum(self.rows)

    def clear(self) -> None:
        self.rows.clear()

    async def held(self, *requests: Awaitable[Any]) -> list[Any]:
        """The answers of requests that the scheduler got before it ran a second step."""
        self.pause_after(0)
        tasks = [asyncio.ensure_future(r) for r in requests]
        await self.until_submitted(tasks)
        self.go_on()
        return await asyncio.gather(*tasks)

    async def until_submitted(self, requests: Sequence[asyncio.Future[Any]]) -> None:
        """Wait until the scheduler has all requests; the model must be held."""
        s = self._scheduler

        def submitted() -> bool:
            assert not any(r.done() for r in requests)
            return len(s._submitted) + len(s._waiting) + len(s._running) >= len(requests)

        await until(submitted)

    async def until_paused(self) -> None:
        await until(lambda: len(self.rows) >= self._pause_at)

    def pause_after(self, steps: int) -> None:
        self._allow(len(self.rows) + steps)

    def go_on(self) -> None:
        self._allow(sys.maxsize)

    def _allow(self, steps: int) -> None:
        with self._moved:
            self._pause_at = steps
            self._moved.notify_all()

    def close(self) -> None:
        self.go_on()
        self._restore()


@pytest.fixture
def steps() -> Iterator[Callable[[AsyncMLCEngine], Steps]]:
    counters: list[Steps] = []

    def count(engine: AsyncMLCEngine) -> Steps:
        counters.append(Steps(engine))
        return counters[-1]

    yield count
    for counter in counters:
        counter.close()


def runtime_of(engine: AsyncMLCEngine) -> Any:
    return next(iter(engine._core._models)).runtime


def scheduler_of(engine: AsyncMLCEngine) -> Any:
    return runtime_of(engine)._loaded.scheduler


async def assert_no_page_lost(engine: AsyncMLCEngine) -> None:
    scheduler = scheduler_of(engine)
    assert await asyncio.to_thread(scheduler.wait_idle, DEADLINE)
    scheduler.pool.check()
    assert scheduler.pool.held == 0


@contextlib.asynccontextmanager
async def engine_on(folder: Path, cache: Path, **options: Any) -> AsyncIterator[AsyncMLCEngine]:
    """An engine with the model of a folder; `chat_opts` among the runtime's options."""
    chat_opts = options.pop("chat_opts", None)
    more = {k: options.pop(k) for k in ("logit_processors",) if k in options}
    engine = AsyncMLCEngine(
        runtime="tvm", runtime_options={"cache_dir": cache, "threads": 1, **options}, **more
    )
    try:
        await engine.reload(str(folder), chat_opts)
        yield engine
    finally:
        await engine.terminate()


@pytest.fixture(scope="session")
def engine_of_all(model_folder: Path, cache_dir: Path) -> Iterator[AsyncMLCEngine]:
    engine = AsyncMLCEngine(runtime="tvm", runtime_options={"cache_dir": cache_dir, "threads": 1})
    asyncio.run(engine.reload(str(model_folder)))
    yield engine
    asyncio.run(engine.terminate())


@pytest_asyncio.fixture
async def shared_engine(engine_of_all: AsyncMLCEngine) -> AsyncIterator[AsyncMLCEngine]:
    """As `engine`, for tests that need not be the first to use it."""
    yield engine_of_all
    await assert_no_page_lost(engine_of_all)


@pytest_asyncio.fixture
async def engine(model_folder: Path, cache_dir: Path) -> AsyncIterator[AsyncMLCEngine]:
    """A fresh engine with the random model."""
    async with engine_on(model_folder, cache_dir) as made:
        yield made


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


async def chat(engine: AsyncMLCEngine, text: str, **request: Any) -> Any:
    """A chat completion that runs to `max_tokens` unless told otherwise."""
    wanted = {"max_tokens": 24, "ignore_eos": True, "seed": 1, **request}
    return await engine.chat.completions.create(messages=user(text), **wanted)


async def streamed(engine: AsyncMLCEngine, text: str, **request: Any) -> str:
    stream = await chat(engine, text, stream=True, **request)
    return "".join([c.choices[0].delta.content or "" async for c in stream])

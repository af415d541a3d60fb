"""The threads behind the engine: requests in, outputs out. Nothing tells anyone if they die."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm.error import InternalError

from mlc_llm.standin import language
from mlc_llm.standin.detokenizer import TextStreamer
from mlc_llm.standin.faults import faults
from mlc_llm.standin.outputs import Output

MODES = ("local", "interactive", "server")
Callback = Callable[[str, list[Output]], None]


@dataclass
class Request:
    id: str
    prompt: list[int]
    config: Any
    recorded: Iterator[list[Output]] | None = None
    tokens: list[Iterator[int]] = field(default_factory=list)
    streamers: list[TextStreamer] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    prefill: int = 0
    started: float = 0.0
    first: float = 0.0


class Backend:
    def __init__(self, tokenizer: Any, callback: Callback) -> None:
        self.tokenizer = tokenizer
        self._callback = callback
        self._todo: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._out: queue.Queue[tuple[str, list[Output]] | None] = queue.Queue()
        self._requests: dict[str, Request] = {}
        self._prompts: list[list[int]] = []
        self._steps = 0
        self._exit = False
        self._mock = False
        self._loaded = threading.Event()
        self.vocab_size = 0
        self.window = 0
        self.metrics = {"prompt_tokens_sum": 0, "completion_tokens_sum": 0}
        self.last_finished: dict[str, Any] = {}

    # Called from other threads

    def reload(self, config: dict[str, Any]) -> None:
        self._todo.put(("reload", config))
        self._loaded.wait()  # forever, if the thread dies

    def create_request(self, request_id: str, prompt: list[int], config: Any) -> Request:
        problem = None
        if config.n <= 0:
            problem = '"n" should be at least 1'
        elif (config.temperature or 0) < 0:
            problem = '"temperature" should be non-negative'
        elif config.top_p is not None and not 0 <= config.top_p <= 1:
            problem = '"top_p" should be in range [0, 1]'
        elif config.top_logprobs > 20:
            problem = "At most 20 top logprob tokens are supported"
        if problem is not None:
            raise InternalError(f"Check failed: (gen_config.IsOk()) is false: {problem}")
        return Request(request_id, prompt, config)

    def add(self, request: Request) -> None:
        self._todo.put(("add", request))

    def abort(self, request_id: str) -> None:
        self._todo.put(("abort", request_id))

    def exit(self) -> None:
        self._exit = True
        self._todo.put(("exit", None))
        self._out.put(None)

    # The two threads

    def run_stream_back(self) -> None:
        while not self._exit:
            item = self._out.get()
            if item is not None:
                self._callback(*item)

    def run(self) -> None:
        while not self._exit:
            try:
                kind, what = self._todo.get(block=not self._requests)
            except queue.Empty:
                self._step()
                continue
            if kind == "reload":
                self._reload(what)
            elif kind == "add":
                self._add(what)
            elif kind == "abort":
                self._requests.pop(what, None)

    def _reload(self, config: dict[str, Any]) -> None:
        trouble = faults()
        if config["mode"] not in MODES:
            raise InternalError(f"Unknown engine mode {config['mode']}")
        if config["speculative_mode"] not in ("disable", "small_draft", "eagle", "medusa"):
            raise InternalError(f"Invalid speculative mode {config['speculative_mode']}")
        if config["verbose"]:
            _log(f'Under mode "{config["mode"]}", max batch size will be set to 4.')
            _log(f'The actual engine mode is "{config["mode"]}". So max batch size is 4.')
            _log("Estimated total single GPU memory usage: 1234.500 MB (Parameters: 800.000 MB.)")
        if trouble.load_dies is not None:
            raise InternalError(trouble.load_dies)
        if trouble.load_hangs and trouble.first_time():
            threading.Event().wait()
        if trouble.load_crashes:
            os.kill(os.getpid(), signal.SIGSEGV)
        folder = Path(config["model"])
        disk = json.loads((folder / "mlc-chat-config.json").read_text())
        self._mock = config["model_lib"] == "mock://echo"
        if not self._mock:
            records = json.loads((folder / "tensor-cache.json").read_text())["records"]
            for record in records:
                time.sleep(trouble.load_s / len(records))
                (folder / record["dataPath"]).read_bytes()
        single = 4096 if self._mock else disk["context_window_size"]
        single = config["max_single_sequence_length"] or single
        self.window = min(single, config["max_total_sequence_length"] or 8192)
        self.vocab_size = disk["vocab_size"]
        self._loaded.set()

    def _add(self, request: Request) -> None:
        config = request.config
        if config.debug_config and config.debug_config.special_request:
            extra = {**self.metrics, "last_finished_request": self.last_finished}
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "extra": extra}
            self._out.put((request.id, [Output(usage=json.dumps(usage))]))
            return
        if config.logprobs and config.top_logprobs > 5:
            raise InternalError("Check failed: (num_top_probs <= 5) is false")
        biased = list(config.logit_bias or {})
        if any(not 0 <= i < self.vocab_size for i in [*request.prompt, *biased]):
            os.kill(os.getpid(), signal.SIGSEGV)  # as reading past the embedding table may
        stops = self._stops(request)
        form = config.response_format
        for i in range(config.n):
            seed = (config.seed or 0) + i
            if self._mock:
                tokens = iter(request.prompt)
            elif form is not None and form.type == "json_object" and form.json_schema:
                tokens = language.json_tokens(self.tokenizer, form.json_schema, stops or [0])
                tokens = iter([next(tokens), *_first(tokens, 4096)])  # a bad schema raises here
            else:
                tokens = language.tokens(self.tokenizer, request.prompt, config, seed)
            request.tokens.append(tokens)
            request.streamers.append(TextStreamer(self.tokenizer))
        request.counts = [0] * config.n
        request.ended = [False] * config.n
        cached = max((_common(request.prompt, p) for p in self._prompts), default=0)
        request.prefill = max(len(request.prompt) - cached, 1)
        self._prompts = [*self._prompts[-31:], request.prompt]
        request.started = time.monotonic()
        self._requests[request.id] = request

    def _stops(self, request: Request) -> list[int]:
        debug = request.config.debug_config
        if debug is not None and debug.ignore_eos:
            return []
        return list(request.config.stop_token_ids or ())

    def _stop_strings(self, request: Request) -> list[str]:
        return list(request.config.stop_strs or ())

    def _step(self) -> None:
        trouble = faults()
        if trouble.step_s:
            time.sleep(trouble.step_s)
        self._steps += 1
        if self._steps == trouble.step_dies_after and trouble.first_time():
            raise InternalError("Check failed: the stand-in was told to die")
        if self._steps == trouble.step_hangs_after and trouble.first_time():
            threading.Event().wait()
        if self._steps == trouble.crashes_after and trouble.first_time():
            os.kill(os.getpid(), signal.SIGSEGV)
        for request in list(self._requests.values()):
            if request.recorded is not None:
                self._replay(request)
            else:
                self._decode(request)

    def _replay(self, request: Request) -> None:
        assert request.recorded is not None
        outputs = next(request.recorded)
        self._out.put((request.id, outputs))
        if outputs[0].usage is not None:
            del self._requests[request.id]

    def _decode(self, request: Request) -> None:
        config, stops = request.config, self._stops(request)
        request.first = request.first or time.monotonic()
        outputs = []
        for i in range(config.n):
            outputs.append(Output() if request.ended[i] else self._next(request, i, stops))
            request.ended[i] = request.ended[i] or outputs[-1].reason is not None
        self._out.put((request.id, outputs))
        if all(request.ended):
            del self._requests[request.id]
            self._finish(request)

    def _next(self, request: Request, i: int, stops: list[int]) -> Output:
        config, streamer = request.config, request.streamers[i]
        token = next(request.tokens[i], None)
        if token is None:  # the mock engine has said everything
            return Output(streamer.finish(), None, "stop")
        token = language.biased(token, config.logit_bias, self.vocab_size)
        request.counts[i] += 1
        logprobs = [self._logprob(token, config.top_logprobs)] if config.logprobs else None
        if token in stops:
            return Output(streamer.finish(), logprobs, "stop")
        before = streamer.given
        text = streamer.put(token)
        if any(stop in before + text for stop in self._stop_strings(request)):
            return Output("", logprobs, "stop")  # with what the token has before the stop string
        length = len(request.prompt) + request.counts[i]
        if (0 <= config.max_tokens <= request.counts[i]) or length >= self.window:
            return Output(text + streamer.finish(), logprobs, "length")
        return Output(text, logprobs)

    def _logprob(self, token: int, top: int) -> str:
        ids = [token, *(t for t in range(top + 1) if t != token)][:top]
        return json.dumps(
            {
                **self._token(token, -0.25),
                "top_logprobs": [
                    self._token(t, -2.0 - k if k else -0.25) for k, t in enumerate(ids)
                ],
            }
        )

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.token_bytes[token]
        shown = "".join(chr(b) for b in data if 33 <= b <= 126)
        return {"token": shown, "logprob": logprob, "bytes": list(data)}

    token_bytes: list[bytes]

    def _finish(self, request: Request) -> None:
        now = time.monotonic()
        # Tokens that were taken back are counted, too.
        prompt, completion = len(request.prompt), sum(request.counts) + faults().taken_back
        decode = completion - len(request.counts)
        first = request.first - request.started
        extra: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prefill_tokens": request.prefill,
            "decode_tokens": decode,
            "jump_forward_tokens": 0,
            "prefill_tokens_per_s": request.prefill / max(first, 1e-6),
            "end_to_end_latency_s": now - request.started,
            "ttft_s": first,
            "inter_token_latency_s": (now - request.started) / max(completion, 1),
        }
        if decode:
            extra["decode_tokens_per_s"] = decode / max(now - request.first, 1e-6)
        self.metrics["prompt_tokens_sum"] += prompt
        self.metrics["completion_tokens_sum"] += completion
        self.last_finished = extra
        if self._mock:  # gives back what it was asked for
            extra = json.loads(request.config.model_dump_json())
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "extra": extra,
        }
        self._out.put((request.id, [Output(usage=json.dumps(usage))]))


def _first(tokens: Iterator[int], count: int) -> Iterator[int]:
    for _, token in zip(range(count), tokens, strict=False):
        yield token


def _common(a: list[int], b: list[int]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return min(count, len(a) - 1)


def _log(text: str) -> None:
    os.write(2, f"[12:00:00] /mlc-llm/cpp/serve/config.cc:800: {text}\n".encode())

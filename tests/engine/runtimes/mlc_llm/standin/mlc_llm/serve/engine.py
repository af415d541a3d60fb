"""The asynchronous engine's interface over the stand-in's threads."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import weakref
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import tokenizers
import tvm

from mlc_llm.protocol import openai_api_protocol as openai
from mlc_llm.protocol.error_protocol import BadRequestError
from mlc_llm.protocol.generation_config import GenerationConfig
from mlc_llm.standin.backend import Backend
from mlc_llm.standin.faults import faults
from mlc_llm.standin.outputs import Output

from .config import EngineConfig
from .create import AsyncChat, AsyncCompletion

logger = logging.getLogger(__name__)


class EngineMetrics:
    def __init__(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]

    def prometheus_text(self) -> str:
        return "\n".join(f"{k}\t{v}" for k, v in self.metrics.items() if not isinstance(v, dict))


class CallbackStreamOutput:
    def __init__(self, output: Output) -> None:
        self.delta_text = output.text
        self.delta_logprob_json_strs = output.logprobs
        self.finish_reason = output.reason
        self.request_final_usage_json_str = output.usage


class AsyncMLCEngine:
    _streams: ClassVar[dict[str, asyncio.Queue[Any]]] = {}  # one for all engines, as in mlc_llm

    def __init__(
        self,
        model: str,
        device: Any = "auto",
        *,
        model_lib: str | None = None,
        mode: str = "local",
        engine_config: EngineConfig | None = None,
        enable_tracing: bool = False,
    ) -> None:
        config = engine_config or EngineConfig()
        if isinstance(device, str):
            device = tvm.device("cpu" if device == "auto" else device)
        if not device.exist:
            raise ValueError(f"Device is not found on your local environment: {device}")
        folder = Path(model)
        if not folder.is_dir():
            raise FileNotFoundError(f"Cannot find model {model}, directory does not exist")
        self._chat_config = json.loads((folder / "mlc-chat-config.json").read_text())
        if model_lib is None:
            from mlc_llm.interface import jit

            model_lib = jit.jit(folder, asdict(config), device).model_lib_path
        elif model_lib != "mock://echo" and not Path(model_lib).is_file():
            raise FileNotFoundError(f"The `model_lib` you passed in is not a file: {model_lib}.\n")
        logger.info("Using library model: %s", model_lib)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._backend = Backend(self.tokenizer, self._on_output)
        self._backend.token_bytes = _token_bytes(self.tokenizer)
        self._background_loop_thread = threading.Thread(target=self._backend.run)
        self._background_stream_back_loop_thread = threading.Thread(
            target=self._backend.run_stream_back
        )
        self._background_loop_thread.start()
        self._background_stream_back_loop_thread.start()
        self._terminated = False
        config.model, config.model_lib, config.mode = model, model_lib, mode
        self._backend.reload(asdict(config))
        self.max_input_sequence_length = self._backend.window
        self.chat = AsyncChat(weakref.ref(self))
        self.completions = AsyncCompletion(weakref.ref(self))

    def terminate(self) -> None:
        if getattr(self, "_terminated", True):
            return
        self._terminated = True
        self._backend.exit()
        self._background_loop_thread.join()
        self._background_stream_back_loop_thread.join()

    async def abort(self, request_id: str) -> None:
        self._abort(request_id)

    def _abort(self, request_id: str) -> None:
        self._streams.pop(request_id, None)
        self._backend.abort(request_id)

    async def metrics(self) -> EngineMetrics:
        chunks = await self.chat.completions.create(
            messages=[{"role": "user", "content": ""}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"debug_config": {"special_request": "query_engine_metrics"}},
        )
        found = None
        async for chunk in chunks:
            if chunk.usage is not None:
                found = EngineMetrics(chunk.usage.extra)
        assert found is not None
        return found

    def _on_output(self, request_id: str, outputs: list[Output]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, request_id, outputs)

    def _deliver(self, request_id: str, outputs: list[Output]) -> None:
        stream = self._streams.get(request_id)
        if stream is None:
            return
        stream.put_nowait([CallbackStreamOutput(o) for o in outputs])
        if outputs[0].usage is not None:
            stream.put_nowait(None)
            del self._streams[request_id]

    async def _ask(
        self, prompt: list[int], config: GenerationConfig, request_id: str, recorded: Any = None
    ) -> AsyncGenerator[list[CallbackStreamOutput], None]:
        if self._terminated:
            raise ValueError("The AsyncThreadedEngine has terminated.")
        self._loop = self._loop or asyncio.get_event_loop()  # the first one, for good
        prompt[0]
        request = self._backend.create_request(request_id, prompt, config)
        request.recorded = None if recorded is None else iter(recorded)
        if request_id in self._streams:
            raise RuntimeError(
                f'The request id "{request_id} already exists. '
                'Please make sure the request id is unique."'
            )
        stream = self._streams[request_id] = asyncio.Queue()
        self._backend.add(request)
        try:
            while (outputs := await stream.get()) is not None:
                yield outputs
        except BaseException:
            self._abort(request_id)
            raise

    if not faults().no_generate:

        def _generate(
            self, prompt: list[int], generation_config: GenerationConfig, request_id: str
        ) -> AsyncGenerator[list[CallbackStreamOutput], None]:
            return self._ask(prompt, generation_config, request_id)

    # Requests

    def _config(self, request: Any, **more: Any) -> GenerationConfig:
        template = self._chat_config["conv_template"]
        stops = [request.stop] if isinstance(request.stop, str) else list(request.stop or ())
        return GenerationConfig(
            n=request.n,
            temperature=request.temperature,
            top_p=request.top_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias=request.logit_bias,
            max_tokens=-1 if request.max_tokens is None else request.max_tokens,
            seed=request.seed,
            stop_strs=[*stops, *template.get("stop_str", [])],
            stop_token_ids=list(template.get("stop_token_ids", [])),
            response_format=request.response_format,
            debug_config=request.debug_config,
            **more,
        )

    def _check_length(self, prompt: list[int]) -> None:
        limit = self.max_input_sequence_length
        if len(prompt) > limit:
            raise BadRequestError(
                f"Request prompt has {len(prompt)} tokens in total, larger than the model input "
                f"length limit {limit}."
            )

    async def _completion(
        self, request: openai.CompletionRequest, request_id: str, recorded: Any
    ) -> AsyncGenerator[openai.CompletionResponse, None]:
        if request.best_of != 1:
            raise BadRequestError('Request fields "best_of" are not supported right now.')
        prompt = request.prompt
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        elif not prompt:
            raise BadRequestError(f"Invalid request prompt {prompt}")
        self._check_length(prompt)
        if request.echo:
            text = request.prompt if recorded is not None else self.tokenizer.decode(prompt)
            choices = [
                openai.CompletionResponseChoice(index=i, text=str(text)) for i in range(request.n)
            ]
            yield openai.CompletionResponse(id=request_id, choices=choices, model=request.model)
        config = self._config(
            request, logprobs=request.logprobs is not None, top_logprobs=request.logprobs or 0
        )
        reasons: list[str | None] = [None] * request.n
        async for outputs in self._ask(prompt, config, request_id, recorded):
            usage = outputs[0].request_final_usage_json_str
            if usage is not None:
                wanted = request.stream_options is not None and request.stream_options.include_usage
                if wanted or not request.stream:
                    yield openai.CompletionResponse(
                        id=request_id,
                        choices=[],
                        model=request.model,
                        usage=openai.CompletionUsage.model_validate_json(usage),
                    )
                continue
            choices = [
                openai.CompletionResponseChoice(
                    index=i, finish_reason=reason, text=output.delta_text, logprobs=_lossy(output)
                )
                for i, output, reason in _news(outputs, reasons)
            ]
            if choices:
                yield openai.CompletionResponse(id=request_id, choices=choices, model=request.model)
        if request.suffix is not None:
            choices = [
                openai.CompletionResponseChoice(index=i, finish_reason=r, text=request.suffix)
                for i, r in enumerate(reasons)
            ]
            yield openai.CompletionResponse(id=request_id, choices=choices, model=request.model)

    async def _chat(
        self, request: openai.ChatCompletionRequest, request_id: str, recorded: Any
    ) -> AsyncGenerator[openai.ChatCompletionStreamResponse, None]:
        use_tools = request.check()
        template = self._chat_config["conv_template"]
        system = template["system_template"].format(system_message=template["system_message"])
        text = system + "".join(
            f"{template['roles'].get(m.role, m.role)}{m.content}{template['seps'][0]}"
            for m in request.messages
        )
        prompt = self.tokenizer.encode(text or " ", add_special_tokens=False).ids
        self._check_length(prompt)
        config = self._config(request, logprobs=request.logprobs, top_logprobs=request.top_logprobs)
        reasons: list[str | None] = [None] * request.n
        async for outputs in self._ask(prompt, config, request_id, recorded):
            usage = outputs[0].request_final_usage_json_str
            envelope: dict[str, Any] = {
                "id": request_id,
                "model": request.model,
                "system_fingerprint": "",
            }
            if usage is not None:
                wanted = request.stream_options is not None and request.stream_options.include_usage
                if wanted or not request.stream:
                    yield openai.ChatCompletionStreamResponse(
                        choices=[],
                        usage=openai.CompletionUsage.model_validate_json(usage),
                        **envelope,
                    )
                continue
            choices = [
                openai.ChatCompletionStreamResponseChoice(
                    index=i,
                    finish_reason="tool_calls" if reason and use_tools else reason,
                    delta=openai.ChatCompletionMessage(content=output.delta_text, role="assistant"),
                    logprobs=_exact(output),
                )
                for i, output, reason in _news(outputs, reasons)
            ]
            if choices:
                yield openai.ChatCompletionStreamResponse(choices=choices, **envelope)


def _news(outputs: Any, reasons: list[str | None]) -> list[tuple[int, Any, Any]]:
    """The choices that have something new; empty texts are dropped."""
    news = []
    for i, output in enumerate(outputs):
        ended = output.finish_reason is not None and reasons[i] is None
        if ended:
            reasons[i] = output.finish_reason
        if ended or output.delta_text:
            news.append((i, output, reasons[i]))
    return news


def _exact(output: Any) -> openai.LogProbs | None:
    if output.delta_logprob_json_strs is None:
        return None
    entries = map(openai.LogProbsContent.model_validate_json, output.delta_logprob_json_strs)
    return openai.LogProbs(content=list(entries))


def _lossy(output: Any) -> openai.CompletionLogProbs | None:
    exact = _exact(output)
    if exact is None:
        return None
    return openai.CompletionLogProbs(
        text_offset=None,
        token_logprobs=[e.logprob for e in exact.content],
        tokens=[e.token for e in exact.content],
        top_logprobs=[{t.token: t.logprob for t in e.top_logprobs} for e in exact.content],
    )


def _token_bytes(tokenizer: Any) -> list[bytes]:
    """Of a byte-level vocabulary, whose characters stand for bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
    added = {i: t.content for i, t in tokenizer.get_added_tokens_decoder().items()}
    found = []
    for i in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        name = tokenizer.id_to_token(i)
        found.append(added[i].encode() if i in added else bytes(table[c] for c in name))
    return found

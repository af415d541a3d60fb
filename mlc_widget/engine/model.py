"""One loaded model: its runtime, tokenizer, template and last answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mlc_widget.api.chat_opts import CHAT_OPTS
from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    RuntimeUnavailableError,
    UnsupportedFieldError,
)
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import LoadReporter
from mlc_widget.api.request_values import shortened
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.sampling_defaults import SAMPLING_DEFAULTS
from mlc_widget.engine.chat_template import ChatTemplate, has_chats, template_of
from mlc_widget.engine.conversation import too_long
from mlc_widget.engine.converted_models import in_mlc_format
from mlc_widget.engine.runtimes.base import ModelRuntime, ModelSource, Sampling
from mlc_widget.engine.store.fingerprint import model_fingerprint
from mlc_widget.engine.store.model_folder import fetch
from mlc_widget.engine.store.stored_model import StoredModel, read_model
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.text.encoder import Encoder
from mlc_widget.engine.text.tokenizer import Tokenizer
from mlc_widget.engine.text.tokenizer_loading import load_tokenizer
from mlc_widget.models.catalogue import recommended_sampling

_ALWAYS_SUPPORTED: Final = frozenset({"max_tokens", "temperature", "top_p"})
"""Sampling fields of which every runtime supports all values."""

# Values without an effect, which a runtime need not support.
_NEUTRAL: Final[Mapping[str, Any]] = {
    **{n: v for n, v in SAMPLING_DEFAULTS.items() if n not in _ALWAYS_SUPPORTED},
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "response_format": {"type": "text"},
    "ignore_eos": False,
    "enable_latency_breakdown": False,
}


_GREEDY: Final = 1e-5
"""Lower temperatures are greedy: in float32, all but the most likely token would have p = 0."""
_SHORTEST: Final = 16
"""Bytes; the longest token counts as at least this long, since some tokenizers drop text."""


@dataclass(slots=True)
class LoadedModel:
    """A loaded model, with its own state."""

    source: ModelSource
    chat_opts: Mapping[str, Any]
    runtime: ModelRuntime
    template: ChatTemplate
    encoder: Encoder
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))
    logit_processor: LogitProcessorFactory | None = None
    last_message: str = ""
    last_usage: JSONDict | None = None
    forwarded: list[int] = field(default_factory=list)
    forward_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    client: str = ""
    cache_salt: str = ""

    @property
    def model_id(self) -> str:
        """The id that the user gave."""
        return self.source.model_id

    def for_client(
        self, client: str, cache_salt: str = "", before: LoadedModel | None = None
    ) -> LoadedModel:
        """The same model with a state of its own, for one of several clients.

        Args:
            client: The client.
            cache_salt: Whose prompts it shares the prefix cache with; see `Sampling`.
            before: Its view of the model when that was loaded last; its answer is still the last.
        """
        return replace(
            self,
            client=client,
            cache_salt=cache_salt,
            last_message="" if before is None else before.last_message,
            last_usage=None if before is None else before.last_usage,
            forwarded=[] if before is None else before.forwarded,
            forward_lock=asyncio.Lock(),
        )

    def describe(self) -> JSONDict:
        """OpenAI's model object, with its fingerprint and limits.

        ``fingerprint`` changes with any change of the model's files or of its `chat_opts`;
        ``max_num_sequence`` is how many requests are computed together, or None.
        """
        defaults = self._defaults()
        return {
            "id": self.model_id,
            "object": "model",
            "created": self.created,
            "owned_by": self.runtime.name,
            "context_window_size": self.runtime.context_window_size,
            "default_sampling_params": defaults,
            "max_num_sequence": self.runtime.capabilities.max_num_sequence,
            "fingerprint": self.fingerprint,
        }

    @property
    def warning(self) -> str:
        """What it cannot do although models usually can, for people; empty if it is as usual."""
        if self.runtime.capabilities.embeddings or has_chats(self.template):
            return ""
        return (
            f"{self.model_id} has no chat template, so it is a base model, which continues a text: "
            "use completions.create(prompt=…). For a chat, load an instruct model."
        )

    def _defaults(self) -> JSONDict:
        """The model's defaults of sampling fields, as far as the runtime can honour them."""
        supported = _ALWAYS_SUPPORTED | self.runtime.capabilities.request_fields
        configured = {
            name: CHAT_OPTS[name](name, value)
            for name in SAMPLING_DEFAULTS
            if name in supported and (value := self.source.config.get(name)) is not None
        }
        return {**SAMPLING_DEFAULTS, **configured}

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.source.tokenizer

    def check_supported(self, request: Mapping[str, Any]) -> None:
        """Refuse fields that the runtime does not support.

        Raises:
            UnsupportedFieldError: A field is not supported; the message names it.
        """
        for name, neutral in _NEUTRAL.items():
            value = request.get(name, neutral)
            asked = type(value) is not type(neutral) or value != neutral  # logprobs may be 0
            if asked and name not in self.runtime.capabilities.request_fields:
                raise UnsupportedFieldError(
                    f"{name} = {value!r}: the {self.runtime.name} runtime cannot honour this "
                    "field; leave it out.",
                    param=name,
                )

    @property
    def longest_prompt(self) -> int:
        """The most characters that can fit into the context window, by the longest token."""
        return self.runtime.context_window_size * max(self.tokenizer.longest, _SHORTEST)

    def check_prompt_logprobs(self, request: Mapping[str, Any]) -> None:
        """Refuse ``echo`` with ``logprobs`` if the runtime gives none for prompts.

        Raises:
            UnsupportedFieldError: It gives none.
        """
        wanted = request.get("echo") and "logprobs" in request
        if wanted and not self.runtime.capabilities.prompt_logprobs:
            raise UnsupportedFieldError(
                f"echo = True: the {self.runtime.name} runtime does not give log-probabilities of "
                "prompts; leave out echo or logprobs.",
                param="echo",
            )

    def check_length(self, param: str, chars: int) -> None:
        """Refuse a prompt that is too long even before it is encoded.

        Raises:
            ContextLengthExceededError: It is too long; the message has its length and the limit.
        """
        if chars > self.longest_prompt:
            raise too_long(param, chars, self.longest_prompt)

    def check_context(self, param: str, prompt_tokens: int) -> None:
        """Refuse a prompt that leaves no room for an answer.

        Raises:
            ContextLengthExceededError: It is too long; the message has its length and the limit.
        """
        window = self.runtime.context_window_size
        if prompt_tokens >= window:
            raise ContextLengthExceededError(
                f"{param}: the prompt has {prompt_tokens} tokens and the context window of "
                f"{self.model_id} is {window}: shorten it, or set chat_opts.context_window_size.",
                param=param,
            )

    def check_ids(self, param: str, token_ids: Iterable[int]) -> None:
        """Refuse token ids outside the vocabulary.

        Raises:
            BadRequestError: An id is outside; the message names it.
        """
        size = self.tokenizer.vocab_size
        for token_id in token_ids:
            if token_id >= size:
                raise BadRequestError(
                    f"{param}: token id {token_id} is outside the vocabulary of {size}.",
                    param=param,
                )

    def _bias(self, given: Mapping[int | str, float]) -> Mapping[int, float]:
        """Biases by token id, of tokens that are given by their ids or by their exact texts.

        Raises:
            BadRequestError: A token is not in the vocabulary, or a text is not that of one token.
        """
        bias = {token: amount for token, amount in given.items() if isinstance(token, int)}
        self.check_ids("logit_bias", bias)
        texts = [token for token in given if isinstance(token, str)]
        for text, token_ids in self.tokenizer.ids_of_texts(texts).items():
            if not token_ids:
                raise BadRequestError(
                    f"logit_bias = {shortened(text)}: {self._several_tokens(text)} Give the text "
                    "of one token, with its space if it has one, or the ids of tokens.",
                    param="logit_bias",
                )
            for token_id in token_ids:
                if token_id in bias:
                    raise BadRequestError(
                        f"logit_bias = {shortened(text)}: token {token_id}, which has this text, "
                        "appears twice. Give its text or its id.",
                        param="logit_bias",
                    )
                bias[token_id] = given[text]
        return bias

    def _several_tokens(self, text: str) -> str:
        ids = self.tokenizer.encode(text)
        shown = ", ".join(
            f"{self.tokenizer.token_bytes(i).decode('utf-8', 'replace')!r} ({i})" for i in ids[:8]
        )
        more = ", …" if len(ids) > 8 else ""
        return f"no token of {self.model_id} has exactly this text; it is written as {shown}{more}."

    def sampling(self, request: JSONDict, *, stop_at_template: bool) -> Sampling:
        """The sampling settings of a request, with the model's and OpenAI's defaults filled in.

        Args:
            request: A checked request.
            stop_at_template: Whether to stop where the conversation template says.
        """
        wanted = {**self._defaults(), **request}
        logprobs = request.get("logprobs", False)
        counted = not isinstance(logprobs, bool)  # a number in completions, a boolean in chats
        bias = self._bias(request.get("logit_bias", {}))
        seed = request.get("seed")
        stops = tuple(request.get("stop", ()))
        eos = self.source.config.get("eos_token_id")
        stop_ids = [eos] if isinstance(eos, int) else list(eos or ())
        if stop_at_template:
            stops += tuple(s for s in self.template.stop_str if s)
            stop_ids += self.template.stop_token_ids
        temperature, top_p = float(wanted["temperature"]), float(wanted["top_p"])
        if temperature < _GREEDY or top_p == 0.0:
            temperature, top_p = 0.0, 1.0
        return Sampling(
            max_tokens=wanted["max_tokens"],
            temperature=temperature,
            top_p=top_p,
            top_k=wanted["top_k"],
            min_p=float(wanted["min_p"]),
            typical_p=float(wanted["typical_p"]),
            seed=secrets.randbits(63) if seed is None else seed % 2**63,
            stop=stops,
            stop_token_ids=tuple(dict.fromkeys(stop_ids)),
            ignore_eos=request.get("ignore_eos", False),
            frequency_penalty=float(wanted["frequency_penalty"]),
            presence_penalty=float(wanted["presence_penalty"]),
            repetition_penalty=float(wanted["repetition_penalty"]),
            dry_multiplier=float(wanted["dry_multiplier"]),
            dry_base=float(wanted["dry_base"]),
            dry_allowed_length=wanted["dry_allowed_length"],
            dry_sequence_breakers=tuple(wanted["dry_sequence_breakers"]),
            logit_bias=bias,
            logprobs=counted or bool(logprobs),
            top_logprobs=int(logprobs) if counted else request.get("top_logprobs", 0),
            prompt_logprobs=counted and request.get("echo", False),
            logit_processor=self.logit_processor,
            response_format=request.get("response_format"),
            latency_breakdown=request.get("enable_latency_breakdown", False),
            background=request.get("service_tier") == "flex",
            client=self.client,
            cache_salt=self.cache_salt,
        )


async def _tokenizer_of(stored: StoredModel) -> Tokenizer:
    spec = stored.tokenizer
    if spec is None:
        return await load_tokenizer(stored.path)
    return await call_in_daemon(
        lambda: Tokenizer.from_spec(spec, stored.path), "mlc_widget-tokenizer"
    )


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model whose files are here and were read, but whose weights were not; see `prepare`."""

    source: ModelSource
    chat_opts: Mapping[str, Any]
    template: ChatTemplate
    fingerprint: str
    logit_processor: LogitProcessorFactory | None

    @classmethod
    def of(cls, model: LoadedModel) -> PreparedModel:
        """What loads a loaded model once more."""
        return cls(
            model.source,
            model.chat_opts,
            model.template,
            model.fingerprint,
            model.logit_processor,
        )

    async def load(self, runtime: ModelRuntime, report: LoadReporter) -> LoadedModel:
        """Load it into a fresh runtime.

        Raises:
            ModelError, RuntimeUnavailableError, InsufficientMemoryError: See `ModelRuntime.load`.
        """
        model_id = self.source.model_id
        await runtime.load(self.source, report)
        if self.logit_processor is not None and not runtime.capabilities.logit_processors:
            raise RuntimeUnavailableError(
                f"A logit processor is registered for {model_id}, and the {runtime.name} runtime "
                "does not support them: unregister it, or use another runtime.",
                code="logit_processors_unsupported",
            )
        return LoadedModel(
            source=self.source,
            chat_opts=self.chat_opts,
            runtime=runtime,
            template=self.template,
            encoder=Encoder(self.source.tokenizer, model_id),
            fingerprint=self.fingerprint,
            logit_processor=self.logit_processor,
        )


async def prepare(
    model_id: str,
    chat_opts: Mapping[str, Any] | None,
    report: LoadReporter,
    *,
    location: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    logit_processor: LogitProcessorFactory | None = None,
) -> PreparedModel:
    """Find, download and read a model, without its weights.

    Args:
        model_id: The id that the user gave.
        chat_opts: The user's overrides of mlc-chat-config.json.
        report: Called with progress reports.
        location: The location that an app config gives for the id, if any.
        overrides: The app config's overrides; `chat_opts` take precedence.
        logit_processor: Makes the model's logit processors, if it has any.

    Raises:
        ModelError: It is not found, cannot be downloaded, or its files are wrong.
        BadRequestError: `chat_opts` has a field that cannot be overridden.
    """
    report("resolve", 0.0, f"Looking for {model_id}")
    opts = {**(overrides or {}), **(chat_opts or {})}
    folder = await in_mlc_format(await fetch(location or model_id, report), opts, report)
    stored = await call_in_daemon(lambda: read_model(folder, opts), "mlc_widget-model")
    report("resolve", 0.5, "Reading the tokenizer")
    tokenizer = await _tokenizer_of(stored)
    template = template_of(stored, tokenizer)
    recommended = recommended_sampling(location or model_id).items()
    missing = {name: value for name, value in recommended if stored.config.get(name) is None}
    config = {**stored.config, **missing}
    fingerprint = await call_in_daemon(
        lambda: model_fingerprint(stored.path, config), "mlc_widget-fingerprint"
    )
    source = ModelSource(model_id, stored.path, config, tokenizer, stored.open_weights)
    return PreparedModel(source, dict(chat_opts or {}), template, fingerprint, logit_processor)

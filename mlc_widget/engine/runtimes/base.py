"""The interface between the engine and its runtimes: a `ModelRuntime` executes one loaded model.

Everything that is the same for all runtimes is above it, in `mlc_widget.engine`: conversation
templates, OpenAI's shapes, tools, reasoning, validation. A runtime gets token ids and yields text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.system.running_step import RunningStep
from mlc_widget.engine.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mlc_widget.engine.store.weight_source import OpenWeights

FinishReason: TypeAlias = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on disk.

    Attributes:
        model_id: The id that the user gave.
        path: The folder with mlc-chat-config.json, or the file that holds the model.
        config: The parsed mlc-chat-config.json, or what it would say, with `chat_opts` applied.
        tokenizer: The model's tokenizer, shared with the engine.
        open_weights: A function that opens its weights.
    """

    model_id: str
    path: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    open_weights: OpenWeights


@dataclass(frozen=True, slots=True)
class RuntimeCapabilities:
    """The features that a runtime supports beyond plain generation.

    Attributes:
        batch_invariant: Whether the same seed gives the same text alone, in a batch and resumed.
            If so, it must support `Sampling.resume`.
        request_fields: The optional request fields that it supports, by OpenAI's names.
        embeddings: Whether `embed` works for this model.
        logit_processors: Whether it calls `Sampling.logit_processor`.
        models_per_process: The maximum number of models in one process; None for no limit.
        fresh_process_needed: Whether this process can load no other model, and the device's memory
            is freed only when the process ends.
        grammars: Whether it supports `Sampling.grammar`.
        prompt_logprobs: Whether it supports `Sampling.prompt_logprobs`.
        max_num_sequence: The number of generations that share steps; None if it is not known.
    """

    batch_invariant: bool
    request_fields: frozenset[str]
    embeddings: bool = False
    logit_processors: bool = False
    models_per_process: int | None = None
    fresh_process_needed: bool = False
    grammars: bool = False
    prompt_logprobs: bool = False
    max_num_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """The device that a loaded model computes on, and its memory in bytes; None if unknown.

    Attributes:
        device: The device as the option ``device`` names it, such as ``cpu`` or ``cuda:0``.
        name: Its maker's name, such as ``NVIDIA H200``.
        memory: Its memory.
        free: How much of it is free, whatever uses the rest.
        model: How much of it the model's weights and KV cache take.
    """

    device: str
    name: str | None = None
    memory: int | None = None
    free: int | None = None
    model: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. Every value was validated and every default resolved by the engine.

    Random numbers are keyed by (`seed`, `choice`, position), so they do not depend on the batch.

    Attributes:
        max_tokens: The maximum number of tokens to generate; None for the rest of the context
            window. It is 0 only with `prompt_logprobs`.
        temperature: The temperature; 0 is greedy.
        top_p: The mass of nucleus sampling, in (0, 1].
        top_k: The number of most probable tokens to draw from; 0 for all.
        min_p: The least probability of a token to draw, as a fraction of the most probable one's.
        typical_p: The mass of locally typical sampling, in [0, 1]; 1 for all.
        seed: 0 to 2**63 - 1; the engine draws one if the user gives none.
        choice: The index among the `n` choices of one request.
        stop: Stop strings; the text ends before the first that appears.
        stop_token_ids: Token ids that end the text and are not part of it.
        ignore_eos: Whether to ignore `stop_token_ids`.
        dry_multiplier: The penalty for a token that would continue a repetition of
            `dry_allowed_length` tokens; 0 for none.
        dry_base: The factor of the penalty for each further token of the repetition.
        dry_allowed_length: The number of tokens that may be repeated without a penalty.
        dry_sequence_breakers: Texts across which no repetition is counted.
        logit_bias: Added to the logits, by token id.
        logprobs: Whether to give the chosen tokens' log-probabilities.
        top_logprobs: The number of alternatives to give with each.
        prompt_logprobs: Whether to give log-probabilities of the prompt's tokens, too; only for a
            runtime with `RuntimeCapabilities.prompt_logprobs`.
        logit_processor: Makes this generation's `LogitProcessor`; called once, by a runtime with
            `RuntimeCapabilities.logit_processors`.
        response_format: The format, as checked by `api.requests`; None for plain text. Only for a
            runtime that has ``response_format`` in its `RuntimeCapabilities.request_fields`.
        grammar: The grammar that the text must match, for llguidance (`engine.structured_output`
            makes it from `response_format` and tools); only for a runtime with
            `RuntimeCapabilities.grammars`.
        latency_breakdown: Whether to measure the time that each token's sampling takes.
        resume: Tokens that this generation has already made, in another process. Its events give
            them again, one token each, without log-probabilities; then it continues as if it had
            just made them. Only for a runtime that is `RuntimeCapabilities.batch_invariant`.
        background: Whether it gives way to generations that are not, where the runtime can do that.
        client: Whose generation it is, where several clients share a model: each gets as much as
            the others, however many generations it has, where the runtime can do that.
        cache_salt: Generations with different salts do not share the keys and values of a common
            prefix, so that none can tell from its time what another's prompt was. A runtime that
            cannot keep them apart must not reuse any.
    """

    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    choice: int = 0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    logit_processor: LogitProcessorFactory | None = None
    response_format: Mapping[str, Any] | None = None
    grammar: str | None = None
    latency_breakdown: bool = False
    resume: tuple[int, ...] = ()
    background: bool = False
    client: str = ""
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm).

    Attributes:
        token_id: The token's id.
        token: Its bytes.
        logprob: Its log-probability, before temperature and top_p; NaN for a prompt's first token.
        top: The most probable alternatives, best first, as (id, bytes, logprob).
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Counts and times of one finished generation.

    Attributes:
        prompt_tokens: The number of tokens of the prompt.
        cached_tokens: The number of them that were in the prefix cache.
        completion_tokens: The number of generated tokens, including a stop token that ended the
            text.
        queue_s: Seconds before the first prefill step.
        prefill_s: Seconds from there to the first token.
        decode_s: Seconds from the first token to the last.
        grammar_init_s: Seconds that it took to make the grammar; None without one.
        grammar_s: Seconds spent on the grammar's masks and on following it.
        latency: Seconds that each token took in each stage of its sampling, under WebLLM's names,
            if requested.
        draft_tokens: The number of tokens that were drafted by speculation.
        accepted_draft_tokens: The number of these that became tokens of the answer.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    grammar_init_s: float | None = None
    grammar_s: float = 0.0
    latency: Mapping[str, Sequence[float]] | None = None
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationEvent:
    """A step of one generation. Only the last one has `finish_reason` and `stats`.

    Attributes:
        text: New text, possibly empty: whole characters, never a part of a stop string.
        token_ids: The tokens decoded since the last event, if the runtime knows them.
        logprobs: One entry for each of `token_ids`, if requested.
        prompt_logprobs: One entry for each token of the prompt, if requested; all in one event.
        finish_reason: Why the generation ended.
        stats: Its counts and times.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None


class ReplacedModels(Protocol):
    """The models that stay until those of a load are ready, unless their memory is needed."""

    def nbytes(self, device: str) -> int:
        """How much of a device's memory they take, in bytes, as far as it is known."""

    def unload(self) -> None:
        """Unload them. Called on a load's thread, once nothing else can fail; it blocks."""


class ModelRuntime(Protocol):
    """Executes one model. All methods are called on one event loop and never block it.

    Attributes:
        name: Its name as the value of `runtime=`.
        replaces: Set by the engine. Loaded models that the next `load` may unload if there is not
            enough memory beside them, after everything else about it was checked.
        on_dead: Set by the engine. To be called once, on the event loop, when the runtime's thread
            or engine has died or hangs, before the running requests fail. The worker then ends,
            and another takes its place.
    """

    name: str
    replaces: ReplacedModels | None
    on_dead: Callable[[EngineDeadError], None] | None

    async def load(self, source: ModelSource, report: LoadReporter) -> None:
        """Make the model ready.

        Cancelling the task ends the load within about a second and leaves nothing allocated.

        Raises:
            ModelFormatError: A file is missing, malformed or truncated.
            UnsupportedModelError: The architecture or quantization is not supported.
            RuntimeUnavailableError: A package or device is missing.
            InsufficientMemoryError: It does not fit.
        """

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities for the loaded model."""

    @property
    def context_window_size(self) -> int:
        """The maximum number of tokens of prompt and answer together, for the loaded model."""

    async def device_usage(self) -> DeviceUsage:
        """The loaded model's device and its memory now.

        Raises:
            ModelNotLoadedError: No model is loaded.
        """

    def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate from a prompt. Several generations may run at once.

        Closing the generator (with `aclose`, or by cancelling its consumer) stops the work within
        one step and frees its memory.

        Raises:
            ContextLengthExceededError: The prompt does not fit, at the first iteration.
            EngineDeadError: The engine's thread died.
        """

    async def embed(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Embed each token sequence as one vector.

        Raises:
            UnsupportedModelError: The loaded model has no embeddings.
        """

    def running_step(self) -> RunningStep | None:
        """The current step of the runtime's thread; None if there is none or it is unknown.

        It may be called while that thread hangs, so it must not wait for anything.
        """

    def interrupt(self) -> None:
        """End all running generations with finish reason ``abort``, within one step."""

    async def unload(self) -> None:
        """Stop all generations and give the memory back to the system. Idempotent."""

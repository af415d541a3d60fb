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
        open_weights: Opens its weights.
    """

    model_id: str
    path: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    open_weights: OpenWeights


@dataclass(frozen=True, slots=True)
class RuntimeCapabilities:
    """What a runtime supports beyond plain generation.

    Attributes:
        batch_invariant: Whether the same seed gives the same text alone, in a batch and resumed.
            If so, it must honour `Sampling.resume`.
        request_fields: The optional request fields, by OpenAI's names, that it honours.
        embeddings: Whether `embed` works for this model.
        devices: Devices that it can use here, best first, such as ``("cpu",)``.
        logit_processors: Whether it calls `Sampling.logit_processor`.
        models_per_process: How many models one process can hold; None is any number.
        fresh_process_needed: This process can load no other model, and `unload` gives the
            device's memory back only with it: replace the process.
        grammars: Whether it takes `Sampling.grammar`.
        prompt_logprobs: Whether it takes `Sampling.prompt_logprobs`.
    """

    batch_invariant: bool
    request_fields: frozenset[str]
    embeddings: bool = False
    devices: tuple[str, ...] = ("cpu",)
    logit_processors: bool = False
    models_per_process: int | None = None
    fresh_process_needed: bool = False
    grammars: bool = False
    prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. Every value was validated and every default resolved by the engine.

    Random numbers are keyed by (`seed`, `choice`, position), so they do not depend on the batch.

    Attributes:
        max_tokens: Tokens to generate at most; None is up to the context window. 0 comes only
            with `prompt_logprobs`.
        temperature: 0 is greedy.
        top_p: Nucleus mass, in (0, 1].
        seed: 0 to 2**63 - 1; the engine draws one where the user gave none.
        choice: Index among the `n` choices of one request.
        stop: Stop strings; the text ends before the first that appears.
        stop_token_ids: Ids that end the text and are not part of it.
        ignore_eos: Do not end at `stop_token_ids`.
        logit_bias: Added to the logits, by token id.
        logprobs: Whether to give the chosen tokens' log-probabilities.
        top_logprobs: How many alternatives to give with each.
        prompt_logprobs: Whether to give those of the prompt's tokens, too; for a runtime that
            declares `RuntimeCapabilities.prompt_logprobs`.
        logit_processor: Makes this generation's `LogitProcessor`; called once, by a runtime that
            declares `RuntimeCapabilities.logit_processors`.
        response_format: As checked by `api.requests`; None for plain text. For a runtime that has
            ``response_format`` among its `RuntimeCapabilities.request_fields`.
        grammar: What the text must match, as llguidance takes it (`engine.structured_output` made
            it from `response_format` and tools); for a runtime that declares
            `RuntimeCapabilities.grammars`.
        latency_breakdown: Whether to measure what each token's sampling takes.
        resume: Tokens that this generation made already, in another process. Its events give them
            again, one each, without log-probabilities; then it goes on as if it had just made
            them. For a runtime that is `RuntimeCapabilities.batch_invariant`.
    """

    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    choice: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    logit_processor: LogitProcessorFactory | None = None
    response_format: Mapping[str, Any] | None = None
    grammar: str | None = None
    latency_breakdown: bool = False
    resume: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm).

    Attributes:
        token_id: The token's id.
        token: Its bytes.
        logprob: log p of it, before temperature and top_p; not a number (NaN) for a prompt's first.
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
        prompt_tokens: Tokens of the prompt.
        cached_tokens: How many of them were served from the prefix cache.
        completion_tokens: Tokens generated, a stop token that ended the text included.
        queue_s: Seconds before the first prefill step.
        prefill_s: Seconds from there to the first token.
        decode_s: Seconds from the first token to the last.
        grammar_init_s: Seconds that making the grammar took; None without one.
        grammar_s: Seconds spent on the grammar's masks and on following it.
        latency: Seconds of each token by stage of its sampling, under WebLLM's names, if asked for.
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


@dataclass(frozen=True, slots=True)
class GenerationEvent:
    """A step of one generation. Only the last one has `finish_reason` and `stats`.

    Attributes:
        text: New text, possibly empty: whole characters, never part of a stop string.
        token_ids: The tokens decoded since the last event, where the runtime knows them.
        logprobs: One entry for each of `token_ids`, if asked for.
        prompt_logprobs: One entry for each token of the prompt, if asked for; in one event.
        finish_reason: Why it ended.
        stats: What it took.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None


class ModelRuntime(Protocol):
    """Executes one model. All methods are called on one event loop and never block it.

    Attributes:
        name: What `runtime=` calls it.
        on_dead: Set by the engine. To be called once, on the event loop, when what the runtime
            lives on (its own thread, most of all) has died or hangs; before the requests that run
            hear of it. A worker ends then, and another takes its place.
    """

    name: str
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
        """Tokens of prompt and answer together that fit, for the loaded model."""

    def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate from a prompt. Several may run at once.

        Closing the generator (`aclose`, or cancelling its consumer) stops the work within one step
        and gives its memory back.

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
        """The current step of its thread; None if there is none, or it is unknown.

        It may be called while that thread hangs, so it must not wait for anything.
        """

    def interrupt(self) -> None:
        """End all running generations with finish reason ``abort``, within one step."""

    async def unload(self) -> None:
        """Stop all generations and give the memory back to the system. Idempotent."""

"""How each request field of OpenAI, WebLLM, mlc_llm and others is treated.

Each is honoured, or refused with the reason given here; no field that would change an answer is
ignored. ``docs/request-fields.md`` is generated from this table, and tests compare the table with
the code and with the fields that the installed `openai` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Origin: TypeAlias = Literal["OpenAI", "WebLLM", "mlc_llm", "vLLM", "llama.cpp", "mlc_widget"]
Kind: TypeAlias = Literal["chat", "completion", "embedding"]
HonouredBy: TypeAlias = Literal["engine", "runtime", "template", "label", "neutral", "nobody"]

_ALL: Final[tuple[Kind, ...]] = ("chat", "completion", "embedding")
_TEXT: Final[tuple[Kind, ...]] = ("chat", "completion")
_CHAT: Final[tuple[Kind, ...]] = ("chat",)
_COMPLETION: Final[tuple[Kind, ...]] = ("completion",)
_EMBEDDING: Final[tuple[Kind, ...]] = ("embedding",)

_O: Final[tuple[Origin, ...]] = ("OpenAI",)
_OW: Final[tuple[Origin, ...]] = ("OpenAI", "WebLLM")
_OWM: Final[tuple[Origin, ...]] = ("OpenAI", "WebLLM", "mlc_llm")
_W: Final[tuple[Origin, ...]] = ("WebLLM",)
_M: Final[tuple[Origin, ...]] = ("mlc_llm",)
_VL: Final[tuple[Origin, ...]] = ("vLLM", "llama.cpp")
_L: Final[tuple[Origin, ...]] = ("llama.cpp",)
_OURS: Final[tuple[Origin, ...]] = ("mlc_widget",)


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How one field is treated.

    Attributes:
        name: The name of the field.
        kinds: The kinds of requests that have it.
        origins: The APIs that define it.
        by: The part that honours it: ``engine``, with every runtime; ``runtime``, if the runtime
            declares the field among its capabilities; ``template``, the model's conversation
            template. A ``label`` is accepted and has no effect by its nature; of a ``neutral``
            field, only values that change nothing are accepted; ``nobody`` marks a field that
            is refused.
        note: A remark or, for a refused field, the reason and the remedy.
    """

    name: str
    kinds: tuple[Kind, ...]
    origins: tuple[Origin, ...]
    by: HonouredBy
    note: str = ""


RULES: Final[tuple[FieldRule, ...]] = (
    # What to answer
    FieldRule(
        "messages",
        _CHAT,
        _OWM,
        "engine",
        "text only; if the last one is the assistant's, it is continued",
    ),
    FieldRule(
        "prompt", _COMPLETION, _OWM, "engine", "a raw text with control tokens, or token ids"
    ),
    FieldRule("input", _EMBEDDING, _OW, "engine", "texts or lists of token ids"),
    FieldRule("model", _ALL, _OWM, "engine", "a loaded model; required if there are several"),
    # How much, and how it comes
    FieldRule("stream", _TEXT, _OWM, "engine"),
    FieldRule("stream_options", _TEXT, _OWM, "engine", "include_usage"),
    FieldRule("n", _TEXT, _OWM, "engine", "1 to 16, for each prompt"),
    FieldRule(
        "max_tokens",
        _TEXT,
        _OWM,
        "engine",
        "1 or more; default: the model's, or the rest of the context window",
    ),
    FieldRule("max_completion_tokens", _CHAT, _O, "engine", "another name of max_tokens"),
    FieldRule("max_completion_tokens", _COMPLETION, _OURS, "engine", "as for chats"),
    FieldRule("stop", _TEXT, _OWM, "engine", "at most 16, each of at most 1024 bytes"),
    FieldRule("ignore_eos", _TEXT, _W, "runtime", "in mlc_llm it is a part of debug_config"),
    FieldRule(
        "echo", _COMPLETION, _OWM, "engine", "with logprobs: also those of the prompt (tvm runtime)"
    ),
    # How tokens are chosen
    FieldRule("temperature", _TEXT, _OWM, "engine", "0 to 2; below 1e-5 is greedy"),
    FieldRule("top_p", _TEXT, _OWM, "engine", "0 to 1; 0 is greedy"),
    FieldRule("top_k", _TEXT, _VL, "runtime", "1 or more; 0 or -1 for all tokens"),
    FieldRule(
        "min_p", _TEXT, _VL, "runtime", "0 to 1, relative to the most likely token's probability"
    ),
    FieldRule("typical_p", _TEXT, _L, "runtime", "0 to 1"),
    FieldRule("seed", _TEXT, _OWM, "engine", "a 64-bit integer; random if not given"),
    FieldRule("frequency_penalty", _TEXT, _OWM, "runtime", "-2 to 2"),
    FieldRule("presence_penalty", _TEXT, _OWM, "runtime", "-2 to 2"),
    FieldRule("repetition_penalty", _TEXT, _W, "runtime", "0.01 to 10"),
    FieldRule("dry_multiplier", _TEXT, _L, "runtime", "0 to 100; 0: no penalty"),
    FieldRule("dry_base", _TEXT, _L, "runtime", "1 to 10; default: 1.75"),
    FieldRule("dry_allowed_length", _TEXT, _L, "runtime", "1 to 64; default: 2"),
    FieldRule(
        "dry_sequence_breakers",
        _TEXT,
        _L,
        "runtime",
        "at most 64, each of at most 64 bytes; default: line break, colon, quotation mark, *",
    ),
    FieldRule(
        "logit_bias", _TEXT, _OWM, "runtime", "-100 to 100, by token id or by a token's text"
    ),
    FieldRule(
        "logprobs",
        _TEXT,
        _OWM,
        "runtime",
        "True or False; for completions also OpenAI's number",
    ),
    FieldRule("top_logprobs", _CHAT, _OWM, "runtime", "0 to 20 (mlc_llm: 0 to 5); needs logprobs"),
    FieldRule("top_logprobs", _COMPLETION, _W, "runtime", "as for chats; needs logprobs=True"),
    FieldRule(
        "response_format",
        _CHAT,
        _OWM,
        "runtime",
        "JSON schemas; tvm runtime: also regex, grammar, structural_tag",
    ),
    FieldRule("response_format", _COMPLETION, _M, "runtime", "as for chats"),
    # Tools and thoughts
    FieldRule("tools", _CHAT, _OWM, "template"),
    FieldRule(
        "tool_choice",
        _CHAT,
        _OWM,
        "template",
        "none, auto; tvm runtime: also required, or a function",
    ),
    FieldRule("parallel_tool_calls", _CHAT, _O, "template"),
    FieldRule("enable_thinking", _CHAT, _W, "template", "in WebLLM it is a part of extra_body"),
    # Embeddings
    FieldRule("dimensions", _EMBEDDING, _OW, "engine", "keeps the first dimensions, normalized"),
    FieldRule("truncate", _EMBEDDING, _OURS, "engine", "cuts inputs at the context window"),
    FieldRule("encoding_format", _EMBEDDING, _OW, "engine", "float or base64"),
    # About the request
    FieldRule("request_id", _ALL, _M, "engine", "the answer's id, which abort() takes"),
    FieldRule("resumable", _CHAT, _W, "engine", "keeps the answer on disk"),
    FieldRule("enable_latency_breakdown", _TEXT, _W, "runtime", "usage.extra.latencyBreakdown"),
    FieldRule("user", _ALL, _OW, "label"),
    FieldRule("metadata", _CHAT, _O, "label"),
    FieldRule("safety_identifier", _CHAT, _O, "label"),
    FieldRule("prompt_cache_key", _CHAT, _O, "label", "shared prefixes are found without it"),
    FieldRule("store", _CHAT, _O, "neutral", "False: nothing is stored"),
    FieldRule(
        "service_tier",
        _CHAT,
        _O,
        "engine",
        "auto, default; flex lets other requests go first (tvm runtime)",
    ),
    FieldRule("modalities", _CHAT, _O, "neutral", '["text"]: the engine generates text only'),
    # Refused
    FieldRule("audio", _CHAT, _O, "nobody", "the engine generates text only."),
    FieldRule(
        "prediction", _CHAT, _O, "nobody", "predicted outputs are not supported; leave it out."
    ),
    FieldRule("reasoning_effort", _CHAT, _O, "nobody", "use enable_thinking."),
    FieldRule("verbosity", _CHAT, _O, "nobody", "ask for a short answer in the messages."),
    FieldRule(
        "web_search_options",
        _CHAT,
        _O,
        "nobody",
        "the engine cannot search the web; offer a tool that does.",
    ),
    FieldRule("functions", _CHAT, _O, "nobody", "use tools."),
    FieldRule("function_call", _CHAT, _O, "nobody", "use tool_choice."),
    FieldRule("moderation", _CHAT, _O, "nobody", "the engine has no moderation; leave it out."),
    FieldRule(
        "prompt_cache_options",
        _CHAT,
        _O,
        "nobody",
        "the prefix cache needs no options; leave it out.",
    ),
    FieldRule(
        "prompt_cache_retention",
        _CHAT,
        _O,
        "nobody",
        "the cache lasts as long as the worker; leave it out.",
    ),
    FieldRule("best_of", _COMPLETION, _OWM, "nobody", "use n, and choose among the answers."),
    FieldRule("suffix", _COMPLETION, _OWM, "nobody", "filling in the middle is not supported."),
    FieldRule("debug_config", _TEXT, _M, "nobody", "use ignore_eos, and response_format."),
)


def honoured(kind: Kind) -> Mapping[str, FieldRule]:
    """The rules of the fields that a kind of request may have."""
    return {r.name: r for r in RULES if kind in r.kinds and r.by != "nobody"}


def refused(kind: Kind) -> Mapping[str, FieldRule]:
    """The rules of the fields that are known, and refused with a reason."""
    return {r.name: r for r in RULES if kind in r.kinds and r.by == "nobody"}

"""The table of request fields is true: against the code, against openai, and on its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pandas as pd
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.request_fields import RULES, Kind, honoured, refused
from mlc_widget.api.request_params import SamplingParams
from mlc_widget.api.requests import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    check_chat,
    check_completion,
    check_embedding,
    check_sampling,
)
from mlc_widget.engine.runtimes.mlc_llm.runtime import REQUEST_FIELDS as MLC_LLM_FIELDS
from mlc_widget.engine.runtimes.tvm.runtime import REQUEST_FIELDS as TVM_FIELDS

TABLE_MADE_FOR_OPENAI = (3, 54)
ROOT = Path(__file__).parents[2]

CHECKS: dict[Kind, Any] = {
    "chat": (check_chat, CHAT_FIELDS, {"messages": [{"role": "user", "content": "Hi"}]}),
    "completion": (check_completion, COMPLETION_FIELDS, {"prompt": "Hi"}),
    "embedding": (check_embedding, EMBEDDING_FIELDS, {"input": "Hi"}),
}
OPENAI: dict[Kind, Any] = {
    "chat": chat_create_params.CompletionCreateParamsNonStreaming,
    "completion": completion_create_params.CompletionCreateParamsNonStreaming,
    "embedding": embedding_create_params.EmbeddingCreateParams,
}
# mlc_llm's keywords, and WebLLM's (0.2.86) with those of its extra_body.
MLC_LLM: dict[Kind, str] = {
    "chat": "messages model frequency_penalty presence_penalty logprobs top_logprobs logit_bias "
    "max_tokens n seed stop stream stream_options temperature top_p tools tool_choice user "
    "response_format request_id debug_config",
    "completion": "prompt model best_of echo frequency_penalty presence_penalty logprobs "
    "logit_bias max_tokens n seed stop stream stream_options suffix temperature top_p user "
    "response_format request_id debug_config",
}
WEBLLM: dict[Kind, str] = {
    "chat": "messages stream stream_options n frequency_penalty presence_penalty "
    "repetition_penalty max_tokens stop temperature top_p logit_bias logprobs top_logprobs seed "
    "tool_choice tools response_format ignore_eos model enable_thinking "
    "enable_latency_breakdown resumable",
    "completion": "prompt echo frequency_penalty logit_bias logprobs max_tokens n "
    "presence_penalty repetition_penalty seed stop stream stream_options temperature top_p "
    "top_logprobs ignore_eos model suffix user best_of enable_latency_breakdown",
    "embedding": "input model encoding_format dimensions user",
}

# Where each honoured field is seen to do what it says: a test, by its folder or file and name.
_ANSWERS, _REFUSALS = "conformance/test_answers", "conformance/test_refusals"
_SAMPLING, _CALLS = "engine/test_sampling", "engine/test_tool_calls"
_TEXT_SHOWN: dict[str, tuple[str, str]] = {
    "model": ("conformance/test_state", "test_two_models"),
    "stream": (_ANSWERS, "test_a_stream_says_what_the_whole_answer_says"),
    "stream_options": (_ANSWERS, "test_usage_comes_last_if_asked_for"),
    "n": (_ANSWERS, "test_several_choices"),
    "max_tokens": (_ANSWERS, "test_one_token"),
    "temperature": (_SAMPLING, "test_frequencies_are_the_softmax_of_the_temperature"),
    "top_p": (_SAMPLING, "test_top_p_draws_from_the_smallest_set_that_reaches_it"),
    "top_k": (_SAMPLING, "test_filters_draw_from_what_they_leave"),
    "min_p": (_SAMPLING, "test_filters_draw_from_what_they_leave"),
    "typical_p": (_SAMPLING, "test_filters_draw_from_what_they_leave"),
    "seed": (_ANSWERS, "test_a_seed_repeats"),
    "stop": (_ANSWERS, "test_a_stop_string_ends_the_text_before_it"),
    "frequency_penalty": (_SAMPLING, "test_penalties_change_the_logits_by_their_definition"),
    "presence_penalty": (_SAMPLING, "test_penalties_change_the_logits_by_their_definition"),
    "repetition_penalty": (_SAMPLING, "test_repetition_penalty_counts_the_prompt_too"),
    **dict.fromkeys(
        ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers"),
        (_SAMPLING, "test_dry_ends_repetitions_except_across_breakers"),
    ),
    "max_completion_tokens": (_ANSWERS, "test_max_completion_tokens_is_max_tokens"),
    "logit_bias": (_ANSWERS, "test_logit_bias_forces_a_token"),
    "logprobs": (_ANSWERS, "test_logprobs_of_an_answer"),
    "response_format": (_ANSWERS, "test_a_schema_holds"),
    "ignore_eos": (_SAMPLING, "test_stop_ids_end_a_text_unless_they_are_ignored"),
    "enable_latency_breakdown": (_SAMPLING, "test_latency_is_told_when_asked_for"),
    "request_id": ("conformance/test_control", "test_abort_ends_one_stream_by_its_id"),
    "user": (_ANSWERS, "test_labels_and_neutral_values_change_nothing"),
}
_LABELS = ("metadata", "safety_identifier", "prompt_cache_key", "store", "service_tier",
           "modalities")  # fmt: skip
SHOWN: dict[Kind, dict[str, tuple[str, str]]] = {
    "chat": {
        **_TEXT_SHOWN,
        **dict.fromkeys(_LABELS, _TEXT_SHOWN["user"]),
        "messages": (_ANSWERS, "test_history_counts"),
        "resumable": ("engine/test_sessions", "test_the_rest_of_an_answer_is_what_would_have_come"),
        "top_logprobs": (_ANSWERS, "test_top_logprobs"),
        "tools": (_CALLS, "test_auto_may_answer_in_words_and_calls_are_valid"),
        "tool_choice": (_CALLS, "test_a_named_tool_is_called_once"),
        "parallel_tool_calls": (_CALLS, "test_several_calls_unless_they_must_not_be_parallel"),
        "enable_thinking": (_CALLS, "test_thoughts_are_separated_from_the_answer"),
    },
    "completion": {
        **_TEXT_SHOWN,
        "prompt": (_ANSWERS, "test_a_completion_of_token_ids"),
        "stream": (_ANSWERS, "test_a_streamed_completion"),
        "n": (_ANSWERS, "test_several_choices_of_a_completion"),
        "logprobs": (_ANSWERS, "test_the_logprobs_of_a_completion"),
        "response_format": (
            "engine/test_structured_output",
            "test_a_completion_can_be_constrained_too",
        ),
        "top_logprobs": (_ANSWERS, "test_web_llms_logprobs_of_a_completion"),
        "echo": (_ANSWERS, "test_a_completion_may_echo_its_prompt"),
    },
    "embedding": {
        "input": ("engine/test_embeddings", "test_an_encoder_gives_transformers_vectors"),
        "model": ("web_llm/client.mjs", "a model for text beside one for embeddings"),
        "dimensions": (
            "engine/test_embeddings",
            "test_dimensions_keep_the_first_and_normalise_them",
        ),
        "truncate": (
            "engine/test_embeddings",
            "test_truncate_cuts_what_is_longer_than_the_window",
        ),
        "encoding_format": ("engine/test_embeddings", "test_base64_is_float32_little_endian"),
        "request_id": ("engine/test_embeddings", "test_a_request_is_ended"),
        "user": ("engine/test_embeddings", "test_a_label_changes_nothing"),
    },
}


@pytest.mark.parametrize("kind", CHECKS)
def test_what_is_honoured_is_seen_to_be_by_a_test(kind: Kind) -> None:
    assert set(SHOWN[kind]) == set(honoured(kind))
    for field, (where, name) in SHOWN[kind].items():
        script = "." in where
        text = (ROOT / "tests" / (where if script else f"{where}.py")).read_text(encoding="utf-8")
        assert (f'"{name}"(' if script else f"def {name}(") in text, f"{where}: no {name}"
        assert field in text, f"{where} never gives {field}"


@pytest.mark.parametrize("kind", CHECKS)
def test_what_the_table_says_is_honoured_is_what_the_checks_know(kind: Kind) -> None:
    assert set(honoured(kind)) == set(CHECKS[kind][1])


@pytest.mark.parametrize("kind", CHECKS)
def test_every_field_of_the_installed_openai_is_in_the_table(kind: Kind) -> None:
    version = tuple(map(int, openai.__version__.split(".")[:2]))
    if version > TABLE_MADE_FOR_OPENAI:
        pytest.skip("a newer openai may know fields that the table does not yet")
    missing = set(OPENAI[kind].__annotations__) - set(honoured(kind)) - set(refused(kind))
    assert not missing


@pytest.mark.parametrize(
    ("kind", "names"), [*MLC_LLM.items(), *WEBLLM.items()], ids=lambda v: v.split()[0]
)
def test_every_field_of_web_llm_and_mlc_llm_is_in_the_table(kind: Kind, names: str) -> None:
    missing = set(names.split()) - set(honoured(kind)) - set(refused(kind))
    assert not missing


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in CHECKS for name in refused(kind)]
)
def test_a_refused_field_is_refused_with_its_reason(kind: Kind, name: str) -> None:
    check, _, request = CHECKS[kind]
    with pytest.raises(UnsupportedFieldError) as caught:
        check({**request, name: "something"})
    assert caught.value.param == name
    assert refused(kind)[name].note in caught.value.message
    assert check({**request, name: None}) == check(request)


@pytest.mark.parametrize("kind", CHECKS)
def test_an_unknown_field_is_refused(kind: Kind) -> None:
    check, _, request = CHECKS[kind]
    with pytest.raises(BadRequestError, match="zzz = 1: no such field; known: ") as caught:
        check({**request, "zzz": 1})
    assert caught.value.param == "zzz"
    with pytest.raises(BadRequestError, match="zzz"):
        check({**request, "extra_body": {"zzz": 1}})


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("tempature", "temperature"),
        ("max_token", "max_tokens"),
        ("top-p", "top_p"),
        ("respone_format", "response_format"),
    ],
)
def test_a_misspelt_field_is_told_its_name(wrong: str, right: str) -> None:
    check, _, request = CHECKS["chat"]
    hint = f"no such field; did you mean '{right}'\\? Known: "
    for given in ({wrong: 1}, {"extra_body": {wrong: 1}}):
        with pytest.raises(BadRequestError, match=hint):
            check({**request, **given})
    if right in SamplingParams.__annotations__:
        with pytest.raises(BadRequestError, match=hint):
            check_sampling({wrong: 1}, ())


def test_a_value_of_several_lines_is_shown_in_one() -> None:
    check, _, request = CHECKS["chat"]
    frame = pd.DataFrame({"review": ["good", "bad"]})
    with pytest.raises(BadRequestError, match=r"content.*good.*bad.*: give a string") as caught:
        check({**request, "messages": [{"role": "user", "content": frame}]})
    assert "\n" not in caught.value.message


def test_what_runtimes_declare_is_in_the_table() -> None:
    by_runtime = {r.name for r in RULES if r.by == "runtime"}
    assert by_runtime >= TVM_FIELDS
    assert by_runtime >= MLC_LLM_FIELDS


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "request_fields.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stderr

"""The table of request fields is true: against the code, against openai, and on its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.request_fields import RULES, Kind, honoured, refused
from mlc_widget.api.requests import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    check_chat,
    check_completion,
    check_embedding,
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
    "ignore_eos model suffix user best_of enable_latency_breakdown",
    "embedding": "input model",
}


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
    with pytest.raises(BadRequestError, match="tempature = 1: no such field; known: ") as caught:
        check({**request, "tempature": 1})
    assert caught.value.param == "tempature"
    with pytest.raises(BadRequestError, match="tempature"):
        check({**request, "extra_body": {"tempature": 1}})


def test_what_runtimes_declare_is_in_the_table() -> None:
    by_runtime = {r.name for r in RULES if r.by == "runtime"}
    assert by_runtime >= TVM_FIELDS
    assert by_runtime >= MLC_LLM_FIELDS


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "request_fields.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stderr

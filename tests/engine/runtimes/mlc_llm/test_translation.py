"""Requests become mlc_llm's arguments, and its outputs become `GenerationEvent`s."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    InsufficientMemoryError,
    InternalEngineError,
    ModelFormatError,
)
from mlc_widget.engine.runtimes.base import ModelSource, Sampling
from mlc_widget.engine.runtimes.mlc_llm import model_view, translate
from mlc_widget.engine.runtimes.mlc_llm.constructor import load_error
from mlc_widget.engine.runtimes.mlc_llm.sampling import (
    check,
    common_arguments,
    debug_config,
    engine_seed,
)
from mlc_widget.engine.store.model_folder import read_config
from mlc_widget.engine.store.tensor_cache import TensorCache
from mlc_widget.engine.text.tokenizer import Tokenizer

from .environment import HERE
from .model_folder import write_model_folder

SAMPLING = Sampling(max_tokens=None, temperature=0.7, top_p=0.9, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("models") / "translated")


@pytest.mark.parametrize(
    ("prompt", "changes", "param"),
    [
        ([], {}, "prompt"),
        ([100], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([True], {}, "prompt"),
        ([1.0], {}, "prompt"),
        ([1], {"logit_bias": {100: 1.0}}, "logit_bias"),
        ([1], {"logit_bias": {1: 101.0}}, "logit_bias"),
        ([1], {"temperature": -0.1}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"temperature": float("inf")}, "temperature"),
        ([1], {"top_p": 1.1}, "top_p"),
        ([1], {"frequency_penalty": 2.1}, "frequency_penalty"),
        ([1], {"presence_penalty": -2.1}, "presence_penalty"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"top_logprobs": 21}, "top_logprobs"),
        ([1], {"top_logprobs": 6}, "top_logprobs"),
    ],
    ids=repr,
)
def test_a_last_look_before_mlc_llm(prompt: list[Any], changes: dict[str, Any], param: str) -> None:
    check([1], SAMPLING, vocab_size=100, context_window=50)
    with pytest.raises(BadRequestError) as raised:
        check(prompt, replace(SAMPLING, **changes), vocab_size=100, context_window=50)
    assert raised.value.param == param


def test_a_prompt_must_leave_room() -> None:
    check([1] * 49, SAMPLING, vocab_size=100, context_window=50)
    with pytest.raises(ContextLengthExceededError):
        check([1] * 50, SAMPLING, vocab_size=100, context_window=50)


def test_a_text_ends_with_the_window_at_the_latest() -> None:
    arguments = common_arguments(SAMPLING, prompt_tokens=10, context_window=50)
    assert arguments["max_tokens"] == 40
    more = replace(SAMPLING, max_tokens=1000)
    assert common_arguments(more, prompt_tokens=10, context_window=50)["max_tokens"] == 40
    assert "stop" not in arguments
    assert "repetition_penalty" not in arguments


def test_seeds_fit_and_differ_between_choices() -> None:
    assert engine_seed(7, 0) == 7
    seeds = {engine_seed(s, c) for s in (7, 2**31, 2**63 - 1) for c in range(50)}
    assert len(seeds) == 150
    assert all(0 <= s < 2**31 for s in seeds)


def test_grammars_do_not_jump() -> None:
    assert debug_config(SAMPLING) == {}
    wanted = replace(SAMPLING, ignore_eos=True, response_format={"type": "json_object"})
    assert debug_config(wanted) == {"ignore_eos": True, "grammar_execution_mode": "constraint"}


def recorded(name: str) -> dict[str, Any]:
    calls = json.loads((HERE / "recordings.json").read_text())["recordings"]
    found: dict[str, Any] = next(c for c in calls if c["name"] == name)
    return found


def test_statistics_from_recorded_usage() -> None:
    usage = recorded("chat with model name")["response"]["usage"]
    extra = usage["extra"]
    stats = translate.stats(usage, prompt_tokens=112)
    assert (stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens) == (112, 111, 4)
    assert stats.queue_s + stats.prefill_s == pytest.approx(extra["ttft_s"])
    total = stats.queue_s + stats.prefill_s + stats.decode_s
    assert total == pytest.approx(extra["end_to_end_latency_s"])
    one = translate.stats(recorded("max_tokens 0")["response"]["usage"], prompt_tokens=112)
    assert one.completion_tokens == 1  # and no decode speed in it


def test_finish_reasons() -> None:
    assert translate.finish_reason("stop") == "stop"
    assert translate.finish_reason("preempt") == "length"
    with pytest.raises(InternalEngineError, match="error"):
        translate.finish_reason("error")


def test_log_probabilities_come_from_the_bytes(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = translate.TokenIds(tokenizer)
    for token_id in range(tokenizer.vocab_size):
        assert tokenizer.token_bytes(ids.find(tokenizer.token_bytes(token_id))) == (
            tokenizer.token_bytes(token_id)
        )
    assert ids.find(b"no such token") == -1
    content = recorded("chat logprobs")["response"]["choices"][0]["logprobs"]["content"]
    entries = translate.logprobs([json.dumps(c) for c in content], ids)
    assert [e.token for e in entries] == [b"k", b" models", b" over"]  # " models" not "models"
    assert entries[0].top[0][1] == b"\xe8"
    assert translate.known_ids(entries[:1]) == (ids.find(b"k"),)
    assert translate.known_ids(entries) == ()  # " models" is no token of this vocabulary


@pytest.mark.parametrize(
    ("died_of", "expected"),
    [
        (RuntimeError("Insufficient GPU memory error: The available is 1 MB"), "memory"),
        (RuntimeError("CUDA: out of memory"), "memory"),
        (FileNotFoundError("params_shard_3.bin"), "format"),
        (KeyError("x"), "internal"),
    ],
    ids=repr,
)
def test_what_a_load_died_of(died_of: Exception, expected: str) -> None:
    error = load_error(died_of)
    kinds = {
        "memory": InsufficientMemoryError,
        "format": ModelFormatError,
        "internal": InternalEngineError,
    }
    assert type(error) is kinds[expected]
    assert str(died_of.args[0]) in error.message
    assert error.__cause__ is died_of


def source(folder: Path, **chat_opts: Any) -> ModelSource:
    config = read_config(folder, chat_opts)
    return ModelSource(
        "m", folder, config, Tokenizer.from_folder(folder), partial(TensorCache.from_folder, folder)
    )


def test_mlc_llm_gets_a_template_where_the_folder_has_one_in_jinja(
    folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(folder, tmp_path / "jinja")
    path = folder / "mlc-chat-config.json"
    config = json.loads(path.read_text())
    del config["conv_template"]
    path.write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with model_view.view(source(folder)) as seen:
        template = json.loads((seen / "mlc-chat-config.json").read_text())["conv_template"]
    assert template["roles"].keys() == {"user", "assistant"}
    assert template["seps"] == [""]
    assert (template["stop_str"], template["stop_token_ids"]) == ([], [0])
    assert "conv_template" not in json.loads(path.read_text())


def test_mlc_llm_sees_the_engine_s_stops(folder: Path) -> None:
    with model_view.view(source(folder)) as seen:
        config = json.loads((seen / "mlc-chat-config.json").read_text())
        assert config["conv_template"]["stop_str"] == []
        assert config["conv_template"]["stop_token_ids"] == [0, 2]  # the end of text, the turn's
        assert (
            config["model_config"]
            == json.loads((folder / "mlc-chat-config.json").read_text())["model_config"]
        )
        shards = sorted(p.name for p in seen.glob("params_shard_*.bin"))
        assert shards == ["params_shard_0.bin", "params_shard_1.bin"]
        assert (seen / "params_shard_0.bin").read_bytes() == (
            folder / "params_shard_0.bin"
        ).read_bytes()
        # by both of the names that versions of mlc_llm look for
        assert (seen / "ndarray-cache.json").read_text() == (
            folder / "tensor-cache.json"
        ).read_text()
    assert not seen.exists()
    assert (folder / "params_shard_0.bin").is_file()


def test_a_shard_may_not_be_elsewhere(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model")
    index = json.loads((folder / "tensor-cache.json").read_text())
    (tmp_path / "outside.bin").write_bytes(b"x")
    index["records"] = [{"dataPath": "../outside.bin", "nbytes": 1}]
    (folder / "tensor-cache.json").write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match=r"outside\.bin"):
        model_view.check_weights(folder)
    (folder / "tensor-cache.json").write_text('{"records": [{}]}')
    with pytest.raises(ModelFormatError, match="is not a list of shards"):
        model_view.check_weights(folder)
    (folder / "tensor-cache.json").unlink()
    with pytest.raises(ModelFormatError, match="is missing"):
        model_view.check_weights(folder)

"""Options that would hang or confuse mlc_llm are refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.mlc_llm import devices
from mlc_widget.engine.runtimes.mlc_llm.options import MLCLLMOptions
from mlc_widget.engine.runtimes.mlc_llm.runtime import MLCLLMRuntime


def test_the_defaults() -> None:
    options = MLCLLMOptions.parse({"device": None})
    assert (options.device, options.mode, options.model_lib) == ("auto", "local", None)


def test_what_may_be_given(tmp_path: Path) -> None:
    library = tmp_path / "model.so"
    library.touch()
    (tmp_path / "mlc-chat-config.json").touch()
    options = MLCLLMOptions.parse(
        {
            "device": "cuda:1",
            "mode": "server",
            "model_lib": str(library),
            "engine_config": {
                "tensor_parallel_shards": 2,
                "speculative_mode": "small_draft",
                "additional_models": [str(tmp_path), [str(tmp_path), str(library)]],
                "sliding_window_size": -1,
                "gpu_memory_utilization": 0.9,
                "opt": None,
            },
        }
    )
    assert options.model_lib == str(library)
    assert options.engine_config == {
        "tensor_parallel_shards": 2,
        "speculative_mode": "small_draft",
        "additional_models": [(str(tmp_path), None), (str(tmp_path), str(library))],
        "sliding_window_size": -1,
        "gpu_memory_utilization": 0.9,
    }


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"threads": 2}, "threads"),
        ({"mode": "fast"}, "mode"),
        ({"mode": ["local"]}, "mode"),
        ({"device": "gpu"}, "device"),
        ({"device": "cuda:x"}, "device"),
        ({"device": 0}, "device"),
        ({"model_lib": "/nowhere/model.so"}, "model_lib"),
        ({"model_lib": "mock://other"}, "model_lib"),
        ({"model_lib": ""}, "model_lib"),
        ({"load_timeout": 0}, "load_timeout"),
        ({"stall_timeout": float("nan")}, "stall_timeout"),
        ({"stall_timeout": True}, "stall_timeout"),
        ({"engine_config": []}, "engine_config"),
        ({"engine_config": {"mode": "server"}}, "engine_config.mode"),
        ({"engine_config": {"model_lib": "x"}}, "engine_config.model_lib"),
        ({"engine_config": {"max_batch": 3}}, "engine_config.max_batch"),
        ({"engine_config": {"kv_cache_page_size": 32}}, "engine_config.kv_cache_page_size"),
        ({"engine_config": {"tensor_parallel_shards": 0}}, "engine_config.tensor_parallel_shards"),
        ({"engine_config": {"max_num_sequence": True}}, "engine_config.max_num_sequence"),
        ({"engine_config": {"max_num_sequence": 2**40}}, "engine_config.max_num_sequence"),
        ({"engine_config": {"gpu_memory_utilization": 1}}, "engine_config.gpu_memory_utilization"),
        ({"engine_config": {"prefix_cache_mode": "lru"}}, "engine_config.prefix_cache_mode"),
        ({"engine_config": {"verbose": 1}}, "engine_config.verbose"),
        ({"engine_config": {"opt": 3}}, "engine_config.opt"),
        ({"engine_config": {"additional_models": "draft"}}, "engine_config.additional_models"),
        ({"engine_config": {"additional_models": ["/no"]}}, "engine_config.additional_models[0]"),
    ],
    ids=repr,
)
def test_what_is_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        MLCLLMOptions.parse(options)
    assert raised.value.param == f"runtime_options.{param}"


async def test_prompts_that_must_be_kept_apart_need_the_prefix_cache_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "installed", lambda: True)
    salted = Sampling(1, temperature=0.0, top_p=1.0, seed=0, cache_salt="user-1")
    for mode, error in (("radix", RuntimeUnavailableError), ("disable", ZeroDivisionError)):
        runtime = MLCLLMRuntime({"engine_config": {"prefix_cache_mode": mode}})
        runtime._source, runtime._token_ids = SimpleNamespace(), {}
        runtime._health = SimpleNamespace(error=ZeroDivisionError())  # what is looked at next
        with pytest.raises(error):
            await anext(runtime.generate([1], salted, request_id="a"))

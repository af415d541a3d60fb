"""Configurations of all families with fields that make no sense: one error that names the field."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
from mlc_widget.engine.store.families import common_config
from mlc_widget.engine.store.formats import hf_config

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import families

WRONG: list[Any] = [
    None, True, "x", -1, 0, 0.5, 1e300, float("nan"), 10**30, [], {}, [[]], [{}], {"x": []}, ["x"],
    "x" * 10**5, [1] * 10**4,
]  # fmt: skip


def accepted(config: dict[str, Any]) -> Any:
    """What a configuration is read as: from transformers' form, and then from MLC's."""
    made = hf_config.model_config(config, has_output=True)
    return architecture_of(hf_config.mlc_model_type(config), common_config(made))


def refused_well(config: dict[str, Any]) -> None:
    try:
        architecture = accepted(config)
    except (ModelFormatError, UnsupportedModelError) as error:
        assert len(str(error)) < 1000  # noqa: PT017 - some are accepted
        return
    for layer in range(architecture.shape.layers if architecture.shape.layers < 10 else 0):
        architecture.attention_spec(layer)
    architecture.compiled_from()


@pytest.mark.parametrize("name", families.CONFIGS)
def test_fields_of_config_json(name):
    config = families.CONFIGS[name]
    accepted(config)
    for field in config:
        if field != "model_type":
            for value in WRONG:
                refused_well({**config, field: value})
            refused_well({key: value for key, value in config.items() if key != field})


@pytest.mark.parametrize("name", families.CONFIGS)
def test_fields_that_other_families_have(name):
    config = families.CONFIGS[name]
    others = {field for other in families.CONFIGS.values() for field in other} - config.keys()
    for field in (*others, "rope_parameters", "kwargs", "text_config", "vision_config"):
        for value in WRONG:
            refused_well({**config, field: value})


@pytest.mark.parametrize("name", families.CONFIGS)
def test_fields_of_model_config(name):
    config = families.CONFIGS[name]
    made = hf_config.model_config(config, has_output=True)
    for field in (*made, "text_config", "kwargs", "rope_parameters", "rotary_dim"):
        for value in WRONG:
            try:
                architecture = architecture_of(
                    config["model_type"], common_config({**made, field: value})
                )
            except (ModelFormatError, UnsupportedModelError) as error:
                assert len(str(error)) < 1000  # noqa: PT017
                continue
            assert architecture.shape.head_dim > 0

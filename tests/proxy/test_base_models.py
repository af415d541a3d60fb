"""A base model, which has no chat template, says so when it is loaded."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import KernelMLCEngine, MLCEngine, UnsupportedFieldError


@pytest.fixture
def base_model(tiny_model: Path, tmp_path: Path) -> str:
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    del config["conv_template"]
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": None}))
    return str(folder)


@pytest.mark.parametrize("kind", [MLCEngine, KernelMLCEngine])
def test_a_base_model_is_loaded_with_a_warning(base_model: str, kind: Any) -> None:
    with kind(runtime="scripted") as engine:
        with pytest.warns(UserWarning, match=r"no chat template.* completions\.create") as caught:
            engine.reload(base_model)
        assert [one.filename for one in caught] == [__file__]  # once, where it was asked for
        assert engine.completions.create(prompt="Hello", max_tokens=3).choices[0].text
        with pytest.raises(UnsupportedFieldError, match="no chat template"):
            engine.chat.completions.create(messages=[{"role": "user", "content": "Hello"}])


def test_a_chat_model_is_loaded_without(tiny_model: Path) -> None:
    with warnings.catch_warnings(), MLCEngine(runtime="scripted") as engine:
        warnings.simplefilter("error")
        engine.reload(str(tiny_model))

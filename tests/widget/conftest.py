from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mlc_widget.proxy.engines import KernelMLCEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripted runtime takes for a model: a tokenizer of bytes and a template."""
    folder = tmp_path_factory.mktemp("models") / "script"
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "llama",
        "context_window_size": 4096,
        "conv_template": {
            "name": "plain",
            "system_template": "{system_message}\n",
            "system_message": "",
            "roles": {"user": "U", "assistant": "A"},
            "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
            "seps": ["\n"],
            "role_content_sep": ":",
            "role_empty_sep": ":",
            "stop_str": [],
            "stop_token_ids": [],
        },
    }
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def make_engine(model_folder: Path) -> Iterator[Callable[..., KernelMLCEngine]]:
    """Makes engines whose worker follows a script (`scripted.Script`), each script once."""
    engines: dict[str, KernelMLCEngine] = {}

    def make(*, load: bool = True, **script: Any) -> KernelMLCEngine:
        key = json.dumps([load, script])
        if key not in engines:
            engines[key] = KernelMLCEngine(runtime="scripted", runtime_options=script)
            if load:
                engines[key].reload(str(model_folder))
        return engines[key]

    yield make
    for engine in engines.values():
        engine.terminate()

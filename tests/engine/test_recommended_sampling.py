"""The catalogue's sampling defaults: for what neither a request, `chat_opts` nor the file gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.engine.loaded_models import LoadedModels
from mlc_widget.engine.store import model_folder, sources
from mlc_widget.models import catalogue as module
from mlc_widget.models.catalogue import CatalogueModel, recommended_sampling

SOURCES = (
    "HF://user/repo/a.gguf@v1#sha256=" + "0" * 64,
    "PYPI://package==1.0/in/a.gguf#sha256=" + "0" * 64,
)
RECOMMENDED = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 50}


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CatalogueModel("llama", 1, 2, "MIT", 64, SOURCES, RECOMMENDED)
    for place in (module, model_folder):
        monkeypatch.setattr(place, "catalogue", lambda: {"small": model})


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The downloaded model, whose own configuration has a top_p."""
    here = Path(shutil.copytree(tiny_model, tmp_path / "small"))
    config = here / "mlc-chat-config.json"
    own = {"temperature": None, "top_p": 0.5, "max_tokens": None}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))

    async def download(*_: Any) -> Path:
        return here

    monkeypatch.setattr(sources, "download_first", download)
    monkeypatch.setattr(sources, "download", download)
    return here


@pytest.mark.parametrize("name", ["small", "HF://user/repo/a.gguf", "alias"])
async def test_each_default_comes_from_the_first_that_has_it(folder: Path, name: str) -> None:
    models = LoadedModels("scripted", {}, None, lambda: None)
    config = AppConfig.read({"model_list": [{"model_id": "alias", "model": "small"}]})
    await models.load(LoadTarget.read([name], [{"max_tokens": 7}]), config)
    model = models.get(None)
    asked = model.sampling({"top_p": 0.1}, stop_at_template=False)
    plain = model.sampling({}, stop_at_template=False)
    assert (asked.top_p, plain.top_p) == (0.1, 0.5)  # the request's and the file's
    assert plain.max_tokens == 7  # chat_opts'
    assert plain.temperature == 0.2  # the catalogue's
    assert plain.frequency_penalty == 0.0  # OpenAI's
    assert model.describe()["default_sampling_params"]["temperature"] == 0.2
    await models.unload()


async def test_a_model_that_is_not_in_the_catalogue_has_openais_defaults(folder: Path) -> None:
    models = LoadedModels("scripted", {}, None, lambda: None)
    await models.load(LoadTarget.read([str(folder)], [None]), AppConfig())
    assert models.get(None).sampling({}, stop_at_template=False).temperature == 1.0
    await models.unload()


@pytest.mark.parametrize(
    ("model_id", "found"),
    [
        ("small", True),
        (SOURCES[0], True),
        ("HF://user/repo/a.gguf@main", True),
        ("user/repo/a.gguf", True),
        ("PYPI://package==1.0/in/a.gguf", True),
        ("HF://user/repo/b.gguf", False),
        ("HF://user/repo", False),
        ("/home/small", False),
        ("", False),
    ],
)
def test_which_ids_stand_for_a_listed_model(model_id: str, found: bool) -> None:
    assert recommended_sampling(model_id) == (RECOMMENDED if found else {})

"""Each damaged or hostile folder of safetensors is one clear error, soon and in little memory."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.text.tokenizer import Tokenizer

from . import hf_folders
from .damaged_folders import KINDS, damaged

MEMORY = 64 << 20
"""Bytes at most; the tiny model has 0.2 MB, and JSON of 8 MB some 60 MB."""
SECONDS = 30.0
LONGEST = 1500


def attempt(folder):
    with Conversion(folder, "q4f16_1") as conversion:
        tokenizer = Tokenizer.from_folder(folder)
        conversion.run(folder.parent / f"{folder.name}-mlc", tokenizer, lambda done, total: None)


def check(cases, tmp_path):
    attempt(hf_folders.make(tmp_path / "whole"))
    for i, (name, make) in enumerate(cases):
        folder = make(tmp_path / str(i))
        tracemalloc.start()
        started = time.monotonic()
        try:
            with pytest.raises((ModelFormatError, UnsupportedModelError)) as caught:
                attempt(folder)
            assert time.monotonic() - started < SECONDS, name
            assert tracemalloc.get_traced_memory()[1] < MEMORY, name
        except BaseException as error:
            error.add_note(name)
            raise
        finally:
            tracemalloc.stop()
        message = caught.value.message
        assert len(message) < LONGEST, name
        assert message.isprintable(), name
        assert caught.value.param, name
        assert not (tmp_path / f"{i}-mlc").exists(), name
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and links")
def test_two_of_each_kind(tmp_path):
    check(damaged(2 * len(KINDS)), tmp_path)


@pytest.mark.soak
@pytest.mark.skipif(os.name != "posix", reason="needs pipes and links")
def test_five_hundred(tmp_path):
    check(damaged(500, seed=1), tmp_path)

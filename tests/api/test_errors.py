"""Errors of models, whose files may hold anything that a message then quotes."""

from __future__ import annotations

import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ModelDownloadError,
    ModelError,
    ModelFormatError,
    UnsupportedModelError,
)


@pytest.mark.parametrize(
    "kind", [ModelError, ModelFormatError, ModelDownloadError, UnsupportedModelError]
)
def test_a_message_about_a_model_is_bounded_and_says_what_to_do(kind: type[ModelError]) -> None:
    text = f"config.json: rope_scaling = {'x' * 100_000!r} is unknown: download it again."
    error = kind(text, param="config.json", code="c")
    assert len(error.message) == 4000
    assert str(error) == error.message
    assert error.message.startswith("config.json: rope_scaling = 'xxx")
    assert error.message.endswith("is unknown: download it again.")
    assert (error.param, error.code) == ("config.json", "c")
    assert kind(error.message).message == error.message  # as the proxy raises it once more


def test_other_messages_are_left_alone() -> None:
    assert ModelFormatError("x" * 4000).message == "x" * 4000
    assert len(BadRequestError("x" * 5000).message) == 5000

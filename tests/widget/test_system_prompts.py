"""Pinned system prompts: what they may be, and that the notebook keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.options import MAX_PROMPTS, MAX_PROMPTS_BYTES, checked_options
from mlc_widget.widget.transcript import CHAT_MIME

from .test_chat import DEADLINE

MakeEngine = Callable[..., KernelMLCEngine]
PINNED = {"Short": "Be brief.", "日本語": "日本語で答える。"}


@pytest.fixture
def chat(make_engine: MakeEngine) -> Any:
    chat = ChatWidget(make_engine(echo=True), system_prompts=PINNED)
    yield chat
    chat.close()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("Be brief.", "must be a mapping"),
        (["Be brief."], "must be a mapping"),
        ({"": "Be brief."}, "a name must be"),
        ({"x" * 101: "Be brief."}, "a name must be"),
        ({7: "Be brief."}, "a name must be"),
        ({"Short": " "}, r"system_prompts\['Short'\]"),
        ({"Short": None}, r"system_prompts\['Short'\]"),
        ({"\u200b": "Be brief."}, "a name must be"),
        ({"Half": "\ud800"}, "not valid Unicode"),
        ({"Long": "x" * MAX_PROMPTS_BYTES}, "262,144 bytes"),
        (
            {"A": "é" * (MAX_PROMPTS_BYTES // 4), "B": "x" * (MAX_PROMPTS_BYTES // 2)},
            r"\['B'\].*262,144 bytes",
        ),
        ({str(i): "x" for i in range(MAX_PROMPTS + 1)}, "= 51: at most 50"),
    ],
)
def test_what_cannot_be_pinned_is_refused(given: Any, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        checked_options(system_prompts=given)


def test_as_much_as_the_bound_can_be_pinned() -> None:
    half = MAX_PROMPTS_BYTES // 2 - 1
    options = checked_options(system_prompts={"A": "x" * half, "B": "é" * (half // 2)})
    assert options.system_prompts
    assert len(options.system_prompts) == 2


def test_they_are_shown_and_not_sent_to_the_model(chat: ChatWidget) -> None:
    assert chat.get_state("_options")["_options"]["system_prompts"] == PINNED
    assert chat.system is None
    assert "brief" not in chat.send("Hello").result(DEADLINE)["content"]
    chat.system = PINNED["Short"]
    assert "Be brief." in chat.send("Hello").result(DEADLINE)["content"]
    chat.system_prompts = {}
    assert chat.system_prompts is None


def test_what_the_page_pins_is_kept_by_the_notebook(
    chat: ChatWidget, make_engine: MakeEngine
) -> None:
    more = {**PINNED, "Teacher": "Explain it."}
    chat._settings.set("system_prompts", more)
    kept = chat._transcript_bundle()[CHAT_MIME]["settings"]
    assert kept == {"system_prompts": more}
    again = ChatWidget(make_engine(echo=True))
    again._settings.adopt(kept)
    assert again._session.options.system_prompts == more
    again._settings.reset()
    assert again._session.options.system_prompts is None
    again.close()
    chat._settings.adopt({"system_prompts": {"Other": "x"}})  # the code gave some
    assert chat._session.options.system_prompts == more

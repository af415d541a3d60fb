"""Sessions on a worker's disk, as a notebook sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import BadRequestError, ModelNotLoadedError

HELLO = [{"role": "user", "content": "Hello!"}]
TEXT = "one two three four five six seven eight"


async def test_a_notebook_reads_continues_and_deletes_what_another_began(
    kernel_engine: Callable[..., Awaitable[AsyncKernelMLCEngine]],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    engine = await kernel_engine(text=TEXT)
    stream = await engine.chat.completions.create(
        messages=HELLO, stream=True, resumable={"enabled": True}, request_id="one"
    )
    async for _ in stream:
        pass
    file = tmp_path / "mlc_widget" / "sessions" / "one.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]))  # as if it had died after three words

    (session,) = await engine.list_resumable_sessions()
    assert (session.session_id, session.emitted_tokens) == ("one", 3)
    assert session.resumable
    assert not session.stored_prompt
    assert (await engine.resume_chat_completion("one")).recovered_text == "one two three"
    with pytest.raises(BadRequestError, match="messages again"):
        await engine.resume_chat_completion("one", continue_generation=True)

    rest = await engine.resume_chat_completion(
        "one", continue_generation=True, stream=True, messages=HELLO
    )
    first = await anext(rest)
    assert first.id == "one"
    words = [first.choices[0].delta.content, *[c.choices[0].delta.content async for c in rest]]
    assert "".join(word or "" for word in words) == " four five six seven eight"

    file.write_bytes(b"".join(lines[:4]))
    result = await engine.resume_chat_completion("one", continue_generation=True, messages=HELLO)
    assert result.recovered_text == TEXT
    assert result.replayed_tokens == 3
    file.write_bytes(b"".join(lines[:4]))
    await engine.unload()
    with pytest.raises(ModelNotLoadedError):
        await engine.resume_chat_completion("one", continue_generation=True, messages=HELLO)
    await engine.delete_resumable_session("one")
    assert await engine.list_resumable_sessions() == []

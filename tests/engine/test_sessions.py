"""Answers that are written to disk go on after the process that asked for them has died."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget import AsyncMLCEngine
from mlc_widget.api.errors import BadRequestError, InternalEngineError
from mlc_widget.engine.resumption import Resumption
from mlc_widget.engine.sessions import session_journal, session_store
from mlc_widget.engine.sessions.session_file import read_session

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

DEADLINE_S = 60.0
MESSAGES = [{"role": "user", "content": "A secret question"}]
REQUEST: dict[str, Any] = {
    "messages": MESSAGES,
    "temperature": 1.0,
    "max_tokens": 40,
    "ignore_eos": True,
    "seed": 7,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path) -> AsyncIterator[AsyncMLCEngine]:
    async with AsyncMLCEngine(runtime="tvm", runtime_options={"threads": 1}) as made:
        await made.reload(str(tiny_model))
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "mlc_widget" / "sessions"


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def begun(
    engine: AsyncMLCEngine, folder: Path, parts: int, session_id: str = "one", **more: Any
) -> None:
    """Leave on disk what a process leaves that dies after some parts of its answer."""
    options = {"enabled": True, "session_id": session_id, **more.pop("resumable", {})}
    await whole(engine, **more, resumable=options)
    cut(folder, parts, session_id)


def cut(folder: Path, parts: int, session_id: str = "one") -> None:
    file = folder / f"{session_id}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) > parts + 1
    file.write_bytes(b"".join(lines[: parts + 1]))


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Another process is writing to a session."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def whole(engine: AsyncMLCEngine, **more: Any) -> str:
    answer = await engine.chat.completions.create(**{**REQUEST, **more})
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("more", [{}, {"temperature": 0.3, "seed": None}, {"logit_bias": {70: 2}}])
async def test_the_rest_of_an_answer_is_what_would_have_come(
    engine: AsyncMLCEngine, folder: Path, more: dict[str, Any]
) -> None:
    stored = {"store_prompt": True}
    await begun(engine, folder, 9, resumable=stored, **more)
    (session,) = await engine.list_resumable_sessions()
    assert session.resumable
    assert session.recovery_mode == "token_replay"
    assert 0 < session.emitted_tokens < 40
    before = await engine.resume_chat_completion("one")
    assert before.finish_reason is None

    result = await engine.resume_chat_completion("one", continue_generation=True)

    header = json.loads((folder / "one.jsonl").read_text().splitlines()[0])
    seed = header["request"]["seed"]
    assert result.recovered_text == await whole(engine, **{**more, "seed": seed})
    assert result.recovered_text.startswith(before.recovered_text)
    assert result.finish_reason == "length"
    assert result.emitted_tokens == 40
    assert result.replayed_tokens == session.emitted_tokens
    assert result.processed_seq_len == 40 + header["prompt_tokens"]
    assert (await engine.resume_chat_completion("one")).recovered_text == result.recovered_text


async def test_it_goes_on_as_a_stream_and_again_after_another_interruption(
    engine: AsyncMLCEngine, folder: Path
) -> None:
    await begun(engine, folder, 5, resumable={"store_prompt": True})
    text = (await engine.resume_chat_completion("one")).recovered_text
    stream = await engine.resume_chat_completion("one", continue_generation=True, stream=True)
    first = await anext(stream)
    assert (await whole(engine)).startswith(text + (first.choices[0].delta.content or ""))
    await stream.aclose()
    cut(folder, 8)  # five parts, the line that says where it continued, and two more

    text = (await engine.resume_chat_completion("one")).recovered_text
    rest = await engine.resume_chat_completion(
        "one", continue_generation=True, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in rest]
    text += "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == await whole(engine)
    assert chunks[-1].usage is not None


async def test_a_whole_answer_is_written_while_it_is_computed(
    engine: AsyncMLCEngine, folder: Path
) -> None:
    answer = await engine.chat.completions.create(
        **REQUEST, request_id="named", extra_body={"resumable": {"enabled": True}}
    )
    kept = await engine.resume_chat_completion("named")
    assert kept.recovered_text == answer.choices[0].message.content == await whole(engine)
    (session,) = await engine.list_resumable_sessions()
    assert (session.resumable, session.reason) == (False, "generation finished")
    with pytest.raises(BadRequestError, match="complete"):
        await engine.resume_chat_completion("named", continue_generation=True)


async def test_without_store_prompt_the_request_is_given_again_and_compared(
    engine: AsyncMLCEngine, folder: Path
) -> None:
    texts = {"stop": ["zzz"], "user": "somebody", "logit_bias": {70: 2.0}}
    await begun(engine, folder, 4, **texts)
    assert "secret" not in (folder / "one.jsonl").read_text()
    assert "somebody" not in (folder / "one.jsonl").read_text()
    again = {**REQUEST, **texts}

    async def resume(**request: Any) -> Any:
        return await engine.resume_chat_completion("one", continue_generation=True, **request)

    with pytest.raises(BadRequestError, match="give the request's logit_bias, messages, stop"):
        await resume()
    other: dict[str, Any]
    for other in [
        {"messages": [{"role": "user", "content": "Another"}]},
        {"temperature": 0.5},
        {"stop": ["zz"]},
        {"user": None},
        {"top_p": 0.5},
        {"seed": 8},
        {"logit_bias": {71: 2.0}},
    ]:
        with pytest.raises(BadRequestError) as caught:
            await resume(**{**again, **other})
        assert caught.value.param == next(iter(other))
    # What the file has need not be given again.
    known = {"messages": REQUEST["messages"], **texts}
    assert (await resume(**known)).recovered_text == await whole(engine, **texts)


async def test_an_aborted_answer_goes_on(engine: AsyncMLCEngine, folder: Path) -> None:
    stream = await engine.chat.completions.create(
        **{**REQUEST, "max_tokens": 1000},
        stream=True,
        request_id="stopped",
        resumable={"enabled": True, "storePrompt": True, "durabilityMode": "relaxed"},
    )
    await anext(stream)
    await engine.abort("stopped")
    async for chunk in stream:
        reason = chunk.choices[0].finish_reason
    assert reason == "abort"
    (session,) = await engine.list_resumable_sessions()
    assert (session.resumable, session.reason) == (True, "generation aborted")
    assert session.emitted_tokens < 1000
    rest = await engine.resume_chat_completion("stopped", continue_generation=True)
    assert rest.recovered_text == await whole(engine, max_tokens=1000)


async def test_two_never_write_to_one_session(engine: AsyncMLCEngine, folder: Path) -> None:
    await begun(engine, folder, 2, resumable={"store_prompt": True})
    with written(folder / "one.jsonl"):
        with pytest.raises(BadRequestError, match="another request is writing"):
            await engine.resume_chat_completion("one", continue_generation=True)
        with pytest.raises(BadRequestError, match="a request is writing"):
            await engine.delete_resumable_session("one")
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        await begun(engine, folder, 2)
    await engine.delete_resumable_session("one")
    await engine.delete_resumable_session("one")
    assert await engine.list_resumable_sessions() == []
    await begun(engine, folder, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"enabled": 1},
        {},
        {"enabled": True, "session_id": "../x"},
        {"enabled": True, "session_id": ""},
        {"enabled": True, "sessionId": ".x"},
        {"enabled": True, "nonsense": 1},
        {"enabled": True, "durability_mode": "none"},
        "yes",
    ],
)
async def test_wrong_options_are_refused(engine: AsyncMLCEngine, folder: Path, wrong: Any) -> None:
    with pytest.raises(BadRequestError) as caught:
        await engine.chat.completions.create(**REQUEST, resumable=wrong)
    assert (caught.value.param or "").startswith("resumable")
    assert not folder.exists()


async def test_what_cannot_be_resumed_is_refused(engine: AsyncMLCEngine, folder: Path) -> None:
    with pytest.raises(BadRequestError, match="only one choice"):
        await engine.chat.completions.create(**REQUEST, n=2, resumable={"enabled": True})
    with pytest.raises(BadRequestError, match="continue_generation"):
        await engine.resume_chat_completion("one", stream=True)  # type: ignore[call-overload]
    with pytest.raises(BadRequestError, match="no such session"):
        await engine.resume_chat_completion("one")
    with pytest.raises(BadRequestError, match="session_id"):
        await engine.resume_chat_completion("../etc/passwd")
    answer = await whole(engine, resumable={"enabled": False})
    assert answer == await whole(engine)
    assert not folder.exists()


async def test_another_model_does_not_continue_it(
    engine: AsyncMLCEngine, folder: Path, tiny_model: Path
) -> None:
    await begun(engine, folder, 2, resumable={"store_prompt": True})
    file = folder / "one.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    header = json.loads(lines[0]) | {"fingerprint": "another"}
    file.write_text(json.dumps(header) + "\n" + "".join(lines[1:]))
    with pytest.raises(BadRequestError, match="have changed"):
        await engine.resume_chat_completion("one", continue_generation=True)


def spoilt(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        first, rest = data.split(b"\n", 1)
        header = json.loads(first)
        change(header)
        return json.dumps(header).encode() + b"\n" + rest

    return spoil


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no JSON": lambda data: data + b"nonsense\n",
    "no object": lambda data: data + b"[1]\n",
    "deep": lambda data: data + b"[" * 100_000 + b"\n",
    "deep in a header": lambda data: b'{"a":' * 90 + b"1" + b"}" * 90 + b"\n" + data,
    "a negative token": lambda d: d + b'{"journal":[-1],"text":"","finish_reason":null}\n',
    "a token too large": lambda d: d + b'{"journal":[1e99],"text":"","finish_reason":null}\n',
    "text for tokens": lambda d: d + b'{"journal":"abc","text":"","finish_reason":null}\n',
    "no text": lambda d: d + b'{"journal":[1],"finish_reason":null}\n',
    "an unknown end": lambda d: d + b'{"journal":[],"text":"","finish_reason":"x"}\n',
    "back to nowhere": lambda d: d + b'{"continue_from":100000}\n',
    "back to a lie": lambda d: d + b'{"continue_from":true}\n',
    "another name": spoilt(lambda h: h.update(session_id="two")),
    "another version": spoilt(lambda h: h.update(mlc_widget_session=99)),
    "no request": spoilt(lambda h: h.update(request=[])),
    "a request of its own": spoilt(lambda h: h["request"].update(extra_body={"n": 3})),
    "no messages": spoilt(lambda h: h["request"].pop("messages")),
    "no fingerprint": spoilt(lambda h: h.pop("fingerprint")),
    "a negative count": spoilt(lambda h: h.update(prompt_tokens=-1)),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_files_are_refused_and_listed_as_such(
    engine: AsyncMLCEngine, folder: Path, kind: str
) -> None:
    await begun(engine, folder, 1, resumable={"store_prompt": True})
    file = folder / "one.jsonl"
    file.write_bytes(HOSTILE[kind](file.read_bytes()))
    (listed,) = await engine.list_resumable_sessions()
    assert not listed.resumable
    assert "cannot be used" in listed.reason
    with pytest.raises(BadRequestError, match="Delete the session"):
        await engine.resume_chat_completion("one", continue_generation=True)
    await engine.delete_resumable_session("one")
    assert not file.exists()


async def test_every_cut_of_a_file_is_read_or_refused(engine: AsyncMLCEngine, folder: Path) -> None:
    await begun(engine, folder, 6, resumable={"store_prompt": True})
    data = (folder / "one.jsonl").read_bytes()
    known = -1
    for length in range(len(data) + 1):
        try:
            state = read_session("one", data[:length])
        except BadRequestError:
            assert b"\n" not in data[:length]
            continue
        assert state.known >= known
        known = state.known
        assert data[: state.nbytes].endswith(b"\n")


async def test_a_partial_last_line_is_replaced(engine: AsyncMLCEngine, folder: Path) -> None:
    await begun(engine, folder, 6, resumable={"store_prompt": True})
    file = folder / "one.jsonl"
    file.write_bytes(file.read_bytes()[:-7])
    rest = await engine.resume_chat_completion("one", continue_generation=True)
    assert rest.recovered_text == await whole(engine)
    assert (await engine.resume_chat_completion("one")).recovered_text == rest.recovered_text


async def test_only_the_user_can_read_them(engine: AsyncMLCEngine, folder: Path) -> None:
    await begun(engine, folder, 1)
    file = folder / "one.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    (listed,) = await engine.list_resumable_sessions()
    assert "nobody else can read" in listed.reason
    file.unlink()
    file.symlink_to(folder / "elsewhere")
    with pytest.raises(BadRequestError, match="sessions cannot be kept"):
        await engine.resume_chat_completion("one")
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        await begun(engine, folder, 1)
    assert not (folder / "elsewhere").exists()
    folder.chmod(0o755)
    with pytest.raises(BadRequestError, match="nobody else can enter"):
        await engine.list_resumable_sessions()


async def test_old_and_many_sessions_are_removed_but_never_one_that_is_written(
    engine: AsyncMLCEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "_MAX_AGE_S", 1e12)
    monkeypatch.setattr(session_store, "_MAX_SESSIONS", 4)
    for number, name in enumerate(("running", "a", "b", "c")):
        await begun(engine, folder, 1, name)
        os.utime(folder / f"{name}.jsonl", (1e9 + number, 1e9 + number))
    monkeypatch.setattr(session_store, "_MAX_SESSIONS", 3)
    with written(folder / "running.jsonl"):
        await begun(engine, folder, 1, "d")
        names = {session.session_id for session in await engine.list_resumable_sessions()}
        assert names == {"running", "c", "d"}
        monkeypatch.setattr(session_store, "_MAX_AGE_S", 3600.0)
        await begun(engine, folder, 1, "e")
    assert {path.stem for path in folder.iterdir()} == {"running", "d", "e"}


async def test_a_full_disk_ends_the_session_or_the_request(
    engine: AsyncMLCEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_journal, "MAX_SESSION_BYTES", 1500)
    answer = await whole(engine, resumable={"enabled": True, "session_id": "lenient"})
    assert answer == await whole(engine)
    with pytest.raises(InternalEngineError, match="strict_persistence"):
        await whole(
            engine,
            resumable={"enabled": True, "session_id": "strict", "strict_persistence": True},
        )
    for session in await engine.list_resumable_sessions():
        assert session.resumable


SCRIPT = {"text": "one two three four five six seven eight"}
KILLED = """
import asyncio, json, sys
from mlc_widget import AsyncMLCEngine

async def main():
    engine = AsyncMLCEngine(runtime="scripted", runtime_options=json.loads(sys.argv[2]))
    await engine.reload(sys.argv[1])
    stream = await engine.chat.completions.create(
        messages=[{"role": "user", "content": "A secret question"}], stream=True,
        resumable={"enabled": True, "session_id": "one", "store_prompt": True},
    )
    async for chunk in stream:
        print(chunk.choices[0].delta.content, flush=True)

asyncio.run(main())
"""


async def test_an_answer_goes_on_after_its_process_was_killed(
    direct_engine: Callable[..., Any], folder: Path, tiny_model: Path
) -> None:
    script = json.dumps({**SCRIPT, "hang_after": 4})
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tiny_model), script], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        for word in (b"one", b" two", b" three", b" four"):
            assert await asyncio.to_thread(child.stdout.readline) == word + b"\n"
        child.send_signal(signal.SIGKILL)

    engine = await direct_engine(**SCRIPT)
    assert (await engine.resume_chat_completion("one")).recovered_text == "one two three four"
    stream = await engine.resume_chat_completion("one", continue_generation=True, stream=True)
    rest = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(rest) == " five six seven eight"


@pytest.mark.parametrize("known", [0, 1, 7, 39])
async def test_a_new_worker_continues_the_session_of_a_dead_one(
    engine: AsyncMLCEngine, folder: Path, known: int
) -> None:
    request = {**REQUEST, "request_id": "r", "resumable": {"enabled": True, "session_id": "one"}}
    answer = await engine.chat.completions.create(**request)
    text = answer.choices[0].message.content
    tokens = read_session("one", (folder / "one.jsonl").read_bytes()).resume()
    assert tokens is not None
    tokens["choices"][0]["journal"] = tokens["choices"][0]["journal"][:known]

    async def again() -> str:
        resumption = Resumption.read(tokens) if known else None
        source = await engine._core.open_stream("chat", request, resumption=resumption)  # type: ignore[call-arg]
        chunks = [chunk for batch in [b async for b in source] for chunk in batch]
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    rest = await engine._home.wait(again)
    assert text.endswith(rest)
    kept = await engine.resume_chat_completion("one")
    assert (kept.recovered_text, kept.finish_reason) == (text, "length")
    lines = (folder / "one.jsonl").read_text().splitlines()
    assert json.dumps({"continue_from": known}, separators=(",", ":")) in lines


@pytest.mark.parametrize(
    "other", [{"messages": [{"role": "user", "content": "B"}]}, {"top_p": 0.5}]
)
async def test_another_request_of_the_same_name_id_and_seed_is_refused(
    engine: AsyncMLCEngine, folder: Path, other: dict[str, Any]
) -> None:
    named = {"request_id": "r", "resumable": {"enabled": True, "session_id": "one"}}
    text = await whole(engine, **named)
    before = (folder / "one.jsonl").read_bytes()
    with pytest.raises(BadRequestError, match="there is a session of this name"):
        await whole(engine, **named, **other)
    assert (folder / "one.jsonl").read_bytes() == before
    assert await whole(engine, **named) == text  # the very same request, as after a death
    assert (await engine.resume_chat_completion("one")).recovered_text == text


@pytest.mark.parametrize("strict", [False, True])
async def test_an_answer_whose_file_is_gone_is_not_kept_without_its_beginning(
    engine: AsyncMLCEngine, folder: Path, strict: bool
) -> None:
    options = {"enabled": True, "session_id": "one", "strict_persistence": strict}
    request = {**REQUEST, "request_id": "r", "resumable": options}
    await engine.chat.completions.create(**request)
    known = read_session("one", (folder / "one.jsonl").read_bytes()).resume()
    assert known is not None
    known["choices"][0]["journal"] = known["choices"][0]["journal"][:7]
    await engine.delete_resumable_session("one")

    async def again() -> None:
        resumption = Resumption.read(known)
        source = await engine._core.open_stream("chat", request, resumption=resumption)  # type: ignore[call-arg]
        async for _ in source:
            pass

    expected = pytest.raises(InternalEngineError, match="is gone")
    with expected if strict else contextlib.nullcontext():
        await engine._home.wait(again)
    assert await engine.list_resumable_sessions() == []

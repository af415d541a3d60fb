"""A group's server: engines for its users, what they can ask for, and what they cannot."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
from typing import Any

import pytest

from mlc_widget import AsyncMLCEngine, AsyncServerMLCEngine, create_kernel_mlc_engine
from mlc_widget.api.engine_link import EngineSnapshot
from mlc_widget.api.errors import BadRequestError, ModelNotFoundError, ServerError
from mlc_widget.api.serving import group_server, group_users, listener
from mlc_widget.api.serving.group_server import GroupServer
from mlc_widget.api.serving.group_socket import GroupSocket

from ...waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="groups are served on Linux only")

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


class Engine(AsyncMLCEngine):
    """An engine in this process in place of one in a shared worker."""

    @property
    def link(self) -> Any:
        self._core.snapshot = EngineSnapshot("ready")
        return self._core


class Group:
    """A group's server in this process, whose connections are of the users that a test says."""

    def __init__(
        self, group: str, models: list[str], script: dict[str, Any], idle_timeout: float
    ) -> None:
        self.engines: list[Engine] = []
        self.user = 1
        self.socket = GroupSocket(group)

        def make(user: int) -> Engine:
            self.engines.append(Engine(runtime="scripted", runtime_options=script))
            return self.engines[-1]

        self.server = GroupServer(self.socket, make, models, idle_timeout=idle_timeout)

    async def ask(
        self, method: str, path: str, body: Any = None, *, user: int = 1
    ) -> tuple[int, Any]:
        """The status and the content of an answer to a user's request."""
        status, _, said = await self.exchange(method, path, body, user=user)
        return status, said

    async def exchange(
        self, method: str, path: str, body: Any = None, *, user: int = 1
    ) -> tuple[int, str, Any]:
        """The same, with the answer's header."""
        self.user = user
        reader, writer = await asyncio.open_unix_connection(str(self.socket.path))
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        header, _, said = answer.partition(b"\r\n\r\n")
        is_json = b"application/json" in header
        status = int(header.split()[1])
        return status, header.decode(), json.loads(said) if is_json else said.decode()


@pytest.fixture
def serve(groups, group, tiny_model, monkeypatch):
    """Serves the tiny model, by a script, to the group of this process."""
    made: list[Group] = []
    monkeypatch.setattr(group_server, "peer_user", lambda _: made[-1].user)

    def make(*models: str, idle_timeout: float = math.inf, **script: Any) -> Group:
        given = script or {"text": "one two", "repeat": 2}
        made.append(Group(group, list(models) or [str(tiny_model)], given, idle_timeout))
        return made[-1]

    yield make
    for one in made:
        one.server.close()


async def test_a_member_s_engine_is_like_any_other(serve, group):
    serve()
    engine = await create_kernel_mlc_engine(f"group://{group}", show_progress=False)
    assert isinstance(engine, AsyncServerMLCEngine)
    assert engine.url == (await engine.device_info())["url"] == f"group://{group}"
    answer = await engine.chat.completions.create(**HELLO)
    stream = await engine.chat.completions.create(**HELLO, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == answer.choices[0].message.content
    await engine.terminate()


async def test_users_have_engines_of_their_own(serve):
    there = serve()
    _, made = await there.ask("POST", "/v1/responses", {"input": "Hi", "store": True}, user=1)
    path = f"/v1/responses/{made['id']}"
    assert (await there.ask("GET", path, user=1))[0] == 200
    assert (await there.ask("GET", path, user=2))[0] == 404
    assert (await there.ask("DELETE", path, user=2))[0] == 404
    assert (await there.ask("GET", path, user=1))[0] == 200
    assert "finished_requests 1\n" in (await there.ask("GET", "/metrics", user=1))[1]
    assert "finished_requests 0\n" in (await there.ask("GET", "/metrics", user=2))[1]
    assert len(there.engines) == 2


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"resumable": {"enabled": True}}, 400, "resumable"),
        ({"model": "/etc/passwd"}, 404, "model"),
        ({"model": "demo"}, 404, "model"),
        ({"chat_opts": {}}, 400, "chat_opts"),
        ({"logit_processors": {"a": "os:system"}}, 400, "logit_processors"),
    ],
)
async def test_nothing_is_run_read_or_written_for_a_member(serve, fields, status, param):
    answered, said = await serve().ask("POST", "/v1/chat/completions", {**HELLO, **fields})
    assert (answered, said["error"]["param"]) == (status, param)


async def test_health_makes_no_engine(serve):
    there = serve()
    assert await there.ask("GET", "/health") == (200, {"status": "ok"})
    assert not there.engines


async def test_only_openai_s_paths_are_there(serve):
    there = serve()
    for path in ("/v1/reload", "/v1/unload", "/v1/terminate", "/v1/models/load", "/shutdown", "/"):
        assert (await there.ask("POST", path, {}))[0] in (404, 405)


async def test_a_flood_of_one_user_s_connections_leaves_others_theirs(serve, monkeypatch):
    there = serve()
    monkeypatch.setattr(group_server, "_MAX_CONNECTIONS", 2)
    there.user = 1
    path = str(there.socket.path)
    open_ones = [await asyncio.open_unix_connection(path) for _ in range(2)]
    refused, _ = await asyncio.open_unix_connection(path)
    assert await asyncio.wait_for(refused.read(), 60) == b""
    assert (await there.ask("GET", "/v1/models", user=2))[0] == 200
    for _, writer in open_ones:
        writer.close()
        await writer.wait_closed()

    async def answers() -> bool:
        try:
            return (await there.ask("GET", "/v1/models", user=1))[0] == 200
        except (IndexError, ConnectionError):  # closed without an answer
            return False

    await until(answers)


async def test_connections_that_a_full_server_ends_do_not_count_against_their_user(
    serve, monkeypatch
):
    monkeypatch.setattr(listener, "most_connections", lambda: 1)
    monkeypatch.setattr(group_server, "_MAX_CONNECTIONS", 2)
    there = serve()
    path = str(there.socket.path)
    there.user = 1
    _, only = await asyncio.open_unix_connection(path)
    http = there.server._listener._http
    await until(lambda: http._connections_of[1] == 1)
    there.user = 2
    for _ in range(3):
        refused, writer = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(refused.read(), 60) == b""
        writer.close()
    only.close()
    await until(lambda: not http.is_full)
    assert (await there.ask("GET", "/v1/models", user=2))[0] == 200


async def test_one_user_s_many_requests_are_not_counted_as_another_s(serve, monkeypatch):
    there = serve(text="a b c", hang_after=1)
    monkeypatch.setattr("mlc_widget.api.serving.handler.MAX_REQUESTS", 1)
    asked = asyncio.create_task(there.ask("POST", "/v1/chat/completions", HELLO, user=1))
    await until(lambda: bool(there.engines) and there.engines[0]._core.running_requests == 1)
    assert (await there.ask("GET", "/v1/models", user=1))[0] == 429
    assert (await there.ask("GET", "/v1/models", user=2))[0] == 200
    there.server._home.submit(there.engines[0]._core.interrupt_generate())
    assert (await asked)[0] == 200


async def test_an_engine_ends_once_its_user_is_idle(serve, monkeypatch):
    monkeypatch.setattr(group_users, "_LOOK_S", 0.01)
    there = serve(text="a b c", hang_after=1, idle_timeout=0.001)
    asked = asyncio.create_task(there.ask("POST", "/v1/chat/completions", HELLO, user=1))
    await until(lambda: bool(there.engines) and there.engines[0]._core.running_requests == 1)
    assert (await there.ask("GET", "/v1/models", user=2))[0] == 200
    await until(lambda: there.engines[1]._core.describe().endswith("terminated"))
    assert there.engines[0]._core.running_requests == 1  # it is not idle
    there.server._home.submit(there.engines[0]._core.interrupt_generate())
    assert (await asked)[0] == 200
    await until(lambda: there.engines[0]._core.describe().endswith("terminated"))
    assert not there.server._users.all_served()
    assert (await there.ask("GET", "/v1/models", user=1))[0] == 200
    assert len(there.engines) == 3


async def test_users_beyond_the_limit_wait_until_another_is_idle(serve, monkeypatch):
    monkeypatch.setattr(group_users, "_MAX_USERS", 2)
    there = serve()
    for user in (1, 2):
        assert (await there.ask("GET", "/v1/models", user=user))[0] == 200
    status, head, said = await there.exchange("POST", "/v1/chat/completions", HELLO, user=3)
    assert (status, said["error"]["code"]) == (503, "too_many_users")
    assert 1 <= int(dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", head))["Retry-After"]) <= 60
    assert (await there.ask("GET", "/v1/models", user=1))[0] == 200
    monkeypatch.setattr(group_users, "_SHORTEST_IDLE_S", 0.0)
    assert (await there.ask("GET", "/v1/models", user=3))[0] == 200
    await until(
        lambda: there.engines[1]._core.describe().endswith("terminated")
    )  # that of the one idle for longest
    assert there.engines[0]._core.describe().endswith("ready")


async def test_a_load_that_fails_is_tried_again(serve, tiny_model, monkeypatch):
    there = serve()
    failing, load = itertools.count(), Engine.link.fget

    class Failing:
        def __init__(self, core: Any) -> None:
            self.core = core

        def __getattr__(self, name: str) -> Any:
            return getattr(self.core, name)

        async def reload(self, models: Any) -> None:
            if next(failing) == 0:
                raise ModelNotFoundError("the disk is away")
            await self.core.reload(models)

    monkeypatch.setattr(Engine, "link", property(lambda self: Failing(load(self))))
    status, said = await there.ask("GET", "/v1/models")
    assert (status, said["error"]["message"]) == (400, "the disk is away")
    status, said = await there.ask("GET", "/v1/models")
    assert (status, said["data"][0]["id"]) == (200, str(tiny_model))
    assert len(there.engines) == 1


async def test_addresses_may_be_written_in_capitals_and_with_a_slash(groups):
    assert AsyncServerMLCEngine("Group://students/").url == "group://students"


async def test_the_end_is_one_clear_error(serve, group):
    there = serve()
    engine = AsyncServerMLCEngine(f"group://{group}")
    await engine.reload()
    there.server.close()
    there.server.close()
    with pytest.raises(ServerError, match=f"No server runs for the group '{group}'"):
        await engine.chat.completions.create(**HELLO)
    serve()  # another takes its place
    assert (await engine.chat.completions.create(**HELLO)).choices
    await engine.terminate()


async def test_interrupt_ends_all_requests_with_what_there_is(serve):
    there = serve(text="a b c", hang_after=1)
    asked = [asyncio.create_task(there.ask("POST", "/v1/chat/completions", HELLO, user=1))]
    await until(lambda: len(there.engines) == 1)
    asked.append(asyncio.create_task(there.ask("POST", "/v1/chat/completions", HELLO, user=2)))
    await until(lambda: len(there.engines) == 2)
    await until(lambda: all(engine._core.running_requests for engine in there.engines))
    await asyncio.to_thread(there.server.interrupt_generate)
    for status, said in await asyncio.gather(*asked):
        assert (status, said["choices"][0]["finish_reason"]) == (200, "abort")


@pytest.mark.parametrize("url", ["group://", "group://a/b", "group://..", "group://a b"])
def test_bad_addresses_of_groups_are_refused(url):
    with pytest.raises(BadRequestError, match="give a group's name"):
        AsyncServerMLCEngine(url)


async def test_what_is_left_at_the_end_gets_an_error(serve, monkeypatch):
    monkeypatch.setattr(listener, "_CLOSE_S", 0.0)
    there = serve(text="a b c", hang_after=1)
    asked = [asyncio.create_task(there.ask("POST", "/v1/chat/completions", HELLO, user=1))]
    await until(lambda: len(there.engines) == 1)
    streamed = {**HELLO, "stream": True}
    asked.append(asyncio.create_task(there.ask("POST", "/v1/chat/completions", streamed, user=2)))
    await until(lambda: len(there.engines) == 2)
    await until(lambda: all(engine._core.running_requests for engine in there.engines))
    await asyncio.to_thread(there.server.close)
    (status, said), (_, events) = await asyncio.gather(*asked)
    assert (status, said["error"]["code"]) == (503, "server_closing")
    assert "server_closing" in str(events)  # as an event, if the stream had begun

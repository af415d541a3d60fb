"""Plans the answers of one client's requests, so that no client keeps others from planning theirs.

A schema may take ten seconds to compile, and a request that is dropped meanwhile does not stop
that. The few processes and threads that compile are common to all clients.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.chat_plan import AnswerPlan, plan
from mlc_widget.engine.model import LoadedModel


class Planner:
    """Plans answers.

    Args:
        shares: Whether other clients plan in this process, too; then this one compiles schemas one
            after another.
    """

    def __init__(self, *, shares: bool) -> None:
        self._turn = asyncio.Lock() if shares else None

    async def plan(
        self, kind: Literal["chat", "completion"], model: LoadedModel, checked: JSONDict
    ) -> AnswerPlan:
        """Plan an answer, on a thread if a schema has to be compiled, which may take a while."""
        if not checked.keys() & {"response_format", "tools"}:
            return plan(kind, model, checked)
        turn = self._turn
        if turn is None:
            return await asyncio.to_thread(plan, kind, model, checked)
        await turn.acquire()
        work = asyncio.ensure_future(asyncio.to_thread(plan, kind, model, checked))

        def ended(work: asyncio.Future[AnswerPlan]) -> None:
            turn.release()
            if not work.cancelled():
                work.exception()  # nobody may wait for it any more

        work.add_done_callback(ended)
        return await asyncio.shield(work)  # if its request ends, its turn lasts until it does

"""verifiers' own machinery on a thread of its own: its environments run there, and ask the policy over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from lgrpo_verifiers.table import Call, GoneError, Table
from lgrpo_verifiers.wire import Answer

SESSION = "X-Session-ID"
"""The header in which verifiers names the trace that a call belongs to."""

MODEL = "policy"
"""What verifiers calls the policy."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """An episode to be played, and the table where its calls wait."""

    number: int
    task: Any
    table: Table
    over: Callable[[Any], None]  # told how it ended, on the service's thread: verifiers' episode, or what was raised


class Service:
    """An environment of verifiers that plays episodes, on an event loop of its own.

    The environment is given an endpoint like any other (``EvalClientConfig``), which is this process: each call names
    its trace, and waits on the episode's ``Table``.

    Raises:
        Exception: What verifiers raises at starting.
    """

    def __init__(self, config: Any, *, timeout: float) -> None:
        self.config, self.timeout = config, timeout
        self.traces: dict[str, tuple[Seat, Any]] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.waiting: dict[str, asyncio.Future[Answer]] = {}
        self.stack = AsyncExitStack()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="verifiers", daemon=True)
        self.thread.start()
        try:
            self.call(self._open())
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt):  # of an environment: its task has it, the loop goes on
                continue

    def call(self, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """What ``work`` gives, run on the loop.

        Raises:
            TimeoutError: The loop does not give it in time.
        """
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout or self.timeout)

    async def _open(self) -> None:
        import verifiers.v1 as vf
        from aiohttp import web

        app = web.Application(client_max_size=1024**3)
        app.router.add_post("/v1/chat/completions", self._completions)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.client = vf.EvalClientConfig(base_url=f"http://127.0.0.1:{port}/v1", api_key_var="LGRPO_VERIFIERS_KEY")
        self.env = vf.load_environment(self.config)
        await self.stack.enter_async_context(self.env.serving())

    def play(self, seat: Seat) -> None:
        """Begin an episode."""
        self.loop.call_soon_threadsafe(self._begin, seat)

    def _begin(self, seat: Seat) -> None:
        self.tasks[seat.number] = self.loop.create_task(self._play(seat))

    async def _play(self, seat: Seat) -> None:
        import verifiers.v1 as vf

        mine: list[str] = []

        def minted(trace: Any) -> None:
            mine.append(trace.id)
            self.traces[trace.id] = (seat, trace)

        found: Any = RuntimeError("the episode was given up")
        try:
            (slot,) = self.env.slots(seat.task)
            found = await self.env.run_slot(slot, vf.ModelContext(MODEL, self.client), on_trace=minted)
        except (Exception, SystemExit) as error:
            found = error
        finally:
            for name in mine:
                self.traces.pop(name, None)
                if (waits := self.waiting.pop(name, None)) is not None and not waits.done():
                    waits.set_result(Answer.refused("the episode is over", status=409))
            if self.tasks.get(seat.number) is asyncio.current_task():
                del self.tasks[seat.number]
            seat.over(found)
            seat.table.leaves(seat.number)

    async def _completions(self, request: Any) -> Any:
        """A call of the policy."""
        from aiohttp import web

        seat, trace = self.traces.get(request.headers.get(SESSION, ""), (None, None))
        if seat is None or trace is None:
            return web.json_response({"error": {"message": f"no episode has this {SESSION}"}}, status=404)
        body, waiting = await request.json(), self.loop.create_future()
        self.waiting[trace.id] = waiting

        def answer(found: Answer) -> None:
            self.loop.call_soon_threadsafe(lambda: waiting.done() or waiting.set_result(found))

        try:
            who = (str(getattr(trace.agent, "name", None) or "agent"), trace.id)
            seat.table.calls(Call(seat=seat.number, agent=who, body=body, answer=answer))
            found = await waiting
        except (GoneError, ValueError) as error:
            found = Answer.refused(str(error) or "the episode was given up", status=409)
        if found.status == 200 and body.get("stream"):
            return web.Response(body=found.events, content_type="text/event-stream")
        return web.json_response(found.body, status=found.status)

    def give_up(self, seats: list[int]) -> bool:
        """Cancel episodes; False where the loop does not answer, because one of them blocks it."""

        async def cancelled() -> None:
            for task in [self.tasks[s] for s in seats if s in self.tasks]:
                task.cancel()

        try:
            self.call(cancelled(), timeout=2.0)
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Stop the environment, as far as it can be; the thread is left alone where it hangs."""

        async def closed() -> None:
            for task in list(self.tasks.values()):
                task.cancel()
            await self.stack.aclose()

        with contextlib.suppress(Exception):
            self.call(closed())
        self.loop.call_soon_threadsafe(self.loop.stop)

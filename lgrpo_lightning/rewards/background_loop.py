"""An event loop on a thread of its own, so that async rewards work inside and outside of a running loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import torch

from lgrpo_lightning.distributed.interruption import AbandonedError, abandon_if_stopping
from lgrpo_lightning.distributed.worker_thread import wait_for_future

GRACE = 2.0
"""Seconds that a coroutine has to end once it is cancelled."""
UNENDED = (
    ", and it goes on all the same: it blocks its event loop (await asyncio.to_thread(...) for what waits without "
    "await, as time.sleep and requests do), or catches its own cancellation"
)


class BackgroundLoop:
    """Starts with the first awaitable and lives until ``close``, so that clients can keep their connections.

    >>> loop = BackgroundLoop()
    >>> loop.wait_for_result(asyncio.sleep(0, "done"), timeout=5.0), loop.close()
    ('done', None)
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def wait_for_result(self, awaitable: Awaitable[Any], *, timeout: float) -> Any:
        """The result of ``awaitable``; after ``timeout`` seconds it is cancelled with ``TimeoutError``.

        One that does not end then is abandoned with its loop: it may block it. A stop that is asked for ends the
        waiting, too.

        Raises:
            AbandonedError: The run is about to stop.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="async rewards", daemon=True)
            self._thread.start()

        async def run_with_limit() -> Any:
            try:
                return await asyncio.wait_for(awaitable, timeout)
            except TimeoutError as error:
                message = str(error) or f"no answer within {timeout:g} seconds (timeout)"
                raise TimeoutError(message) from error

        future = asyncio.run_coroutine_threadsafe(run_with_limit(), self._loop)
        try:
            return wait_for_future(future, timeout=timeout + GRACE, look=abandon_if_stopping)
        except AbandonedError:
            future.cancel()
            raise
        except TimeoutError:
            if future.done():
                raise
            self._loop = self._thread = None
            raise TimeoutError(f"no answer within {timeout:g} seconds (timeout){UNENDED}") from None

    def close(self) -> None:
        """Cancel running tasks, stop the loop and its thread; a later ``result`` starts new ones."""
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop)
        self._thread.join(timeout=5.0)
        self._loop = self._thread = None


async def _end_tasks() -> None:
    """Cancel all tasks, so that nothing waits for them forever, and stop the loop."""
    loop = asyncio.get_running_loop()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1.0)
    # only once this coroutine has returned
    loop.call_soon(loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop without gradients, which each thread switches for itself."""
    with torch.no_grad():
        while True:
            try:
                return loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a coroutine: who waits for it is told, the others go on
                continue

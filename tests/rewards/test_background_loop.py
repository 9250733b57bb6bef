"""A loop that is closed leaves neither tasks nor its thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lgrpo_lightning.rewards.background_loop import BackgroundLoop


@pytest.mark.parametrize("left_behind", [0, 1, 2])
def test_tasks_that_are_left_end_before_the_thread(left_behind: int) -> None:
    ended, before = list[int](), set(threading.enumerate())

    async def stay(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)  # as a client that closes its connection
            ended.append(number)

    tasks = []

    async def start() -> int:
        tasks.extend(asyncio.create_task(stay(n)) for n in range(left_behind))
        await asyncio.sleep(0)
        return 3

    loop = BackgroundLoop()
    assert loop.wait_for_result(start(), timeout=5.0) == 3
    (thread,) = set(threading.enumerate()) - before
    loop.close()
    assert not thread.is_alive()
    assert sorted(ended) == list(range(left_behind))
    assert loop.wait_for_result(asyncio.sleep(0, "again"), timeout=5.0) == "again"
    loop.close()

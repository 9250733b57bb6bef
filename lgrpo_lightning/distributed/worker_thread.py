"""A function on a thread of its own, so that waiting for it can end."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import torch

from lgrpo_lightning.distributed.leaving import join_at_exit

LOOK = 0.1
"""Seconds between two looks at whether the waiting is to end."""


def call_with_limit(call: Callable[[], Any], *, timeout: float, look: Callable[[], None] = lambda: None) -> Any:
    """What ``call`` gives or raises; ``TimeoutError`` after ``timeout`` seconds, and the thread is abandoned.

    An abandoned thread goes on until its call returns, and what it returns is dropped; at its end the process waits
    some seconds for it. Gradients are on or off, and the CUDA device is chosen, as in the calling thread; signal
    handlers (``signal.alarm``) cannot be set on a thread.

    >>> call_with_limit(lambda: "done", timeout=5.0)
    'done'
    """
    future: Future[Any] = Future()
    context, gradients = contextvars.copy_context(), torch.is_grad_enabled()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def run() -> None:
        if device is not None:
            # a new thread is on device 0
            torch.cuda.set_device(device)
        try:
            with torch.set_grad_enabled(gradients):
                future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="reward function", daemon=True)
    thread.start()
    try:
        return wait_for_future(future, timeout=timeout, look=look)
    except BaseException:
        join_at_exit(thread, abandoned=True)  # Python's end within torch would abort the process
        raise


def wait_for_future(future: Future[Any], *, timeout: float, look: Callable[[], None]) -> Any:
    """What ``future`` gives or raises, within ``timeout`` seconds. What ``look`` raises meanwhile ends the waiting."""
    until = time.monotonic() + timeout
    while not future.done():
        look()
        if (left := until - time.monotonic()) <= 0:
            raise TimeoutError(f"no answer within {timeout:g} seconds (timeout)")
        wait([future], timeout=min(left, LOOK))
    return future.result()

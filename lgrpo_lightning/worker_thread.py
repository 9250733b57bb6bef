"""A function on a thread of its own, so that waiting for it can end."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch


def limited(call: Callable[[], Any], *, timeout: float) -> Any:
    """What ``call`` gives or raises; ``TimeoutError`` after ``timeout`` seconds, and the thread is abandoned.

    An abandoned thread goes on until its call returns, and what it returns is dropped; it does not keep the process
    alive. Gradients are on or off, and the CUDA device is chosen, as where ``limited`` was called; signal handlers
    (``signal.alarm``) cannot be set on a thread.

    >>> limited(lambda: "done", timeout=5.0)
    'done'
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    context, gradients = contextvars.copy_context(), torch.is_grad_enabled()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def run() -> None:
        if device is not None:
            torch.cuda.set_device(device)
        try:
            with torch.set_grad_enabled(gradients):
                answers.put((context.run(call), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, name="reward function", daemon=True).start()
    try:
        answer, error = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout:g} seconds (timeout)") from None
    if error is not None:
        raise error
    return answer

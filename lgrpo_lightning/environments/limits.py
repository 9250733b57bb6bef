"""How long an environment may take, and what is known where it took too long."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

from lgrpo_lightning.environments.environment import Environment

RAISED = (Exception, SystemExit, CancelledError)
"""What is the environment's own mistake, whatever it raises; Ctrl-C is not."""


class StateLostError(RuntimeError):
    """What the environment remembers of its episode is gone, with its process: the episode cannot go on."""


def call_environment(environment: Environment, call: Callable[[], Any], *, timeout: float) -> Any:
    """What ``call`` of an environment gives, in ``timeout`` seconds: on a thread, unless it sees to that itself."""
    if getattr(environment, "keeps_time", False):
        return call()
    # here, as a process of environments imports this module without torch
    from lgrpo_lightning.distributed.worker_thread import call_with_limit

    return call_with_limit(call, timeout=timeout)


def limit_answer(environment: Environment, timeout: float) -> float:
    """Seconds for an answer: each of several calls of tools has its own limit."""
    return timeout * (1 if not environment.tools else 8) + 1.0


def name_class(environment: Environment) -> str:
    """What messages call an environment: its class, also where it is in a process of its own."""
    return str(getattr(environment, "class_name", type(environment).__name__))

"""Keeps what an engine does to its process away from training: generators, threads, environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from lgrpo_lightning.distributed.component_call import isolate


@contextmanager
def isolate_engine(environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run code that may seed generators, set threads and change the environment; put everything back after it.

    Inside, mixed precision is off: the engine computes in its own type, whatever training does around the call.

    vLLM seeds python, numpy and torch with its own seed, replaces ``torch.set_num_threads`` by a function that does
    nothing, and sets variables (among them LD_PRELOAD) that child processes would inherit.

    Args:
        environment: Variables to set inside. Those called ``VLLM_…`` stay afterwards: the engine reads them later.
    """
    saved = dict(os.environ)
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    os.environ.update(environment or {})
    try:
        with isolate(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
            yield
    finally:
        # vLLM has put a function in its place that does nothing
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        _restore_environment(saved)


def _restore_environment(saved: Mapping[str, str]) -> None:
    for name in [n for n in os.environ if n not in saved and not n.startswith("VLLM_")]:
        del os.environ[name]
    for name, value in saved.items():
        if os.environ.get(name) != value and not name.startswith("VLLM_"):
            os.environ[name] = value

"""Around every call of a component: what it does stays its own."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.distributed.interruption import is_aside
from lgrpo_lightning.errors import UserError


@contextmanager
def isolate_call(random_key: RandomKey, *key: object) -> Iterator[None]:
    """Call a component inside, isolated from training.

    The generators of python, numpy and torch are seeded from the keys, so that a resumed run draws the same. On a
    thread beside the run they are left alone, as training uses them meanwhile.

    Args:
        key: What its draws depend on, beside the random key: its name, the rank, the prompt.
    """
    with isolate(), refuse_exits(key):
        if is_aside():
            yield
            return
        text = "\x1f".join(map(str, (*random_key, *key)))
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def refuse_exits(key: Sequence[object]) -> Iterator[None]:
    """Refuse ``sys.exit`` inside: a run that ends early does not end with the status of success."""
    try:
        yield
    except SystemExit as error:
        if type(error) is not SystemExit:
            raise
        who = str(key[0]) if key else "a component"
        raise UserError(
            f"{who} called sys.exit({'' if error.code is None else repr(error.code)}). To stop a run, set "
            "trainer.should_stop in a callback; where something is wrong, raise an error that says what."
        ) from error


@contextmanager
def isolate() -> Iterator[None]:
    """Inside there are no gradients and no autocast, and what is changed for the whole process is put back afterwards.

    That is the generators of python, numpy and torch, the working directory, and the default type and device of
    tensors. On a thread beside the run only gradients are off: training goes on in the process.
    """
    if is_aside():
        with torch.no_grad():
            yield
        return
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with (
        keep_directory(),
        keep_descriptors(),
        isolate_rng(include_cuda=torch.cuda.is_initialized()),  # type: ignore[no-untyped-call]
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.no_grad(),
    ):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            # to set a device installs a mode that slows every call of torch down
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def keep_directory() -> Iterator[None]:
    """Inside, ``os.chdir`` does what it does; afterwards the process is where it was, unless somebody removed that."""
    here = "."
    with suppress(FileNotFoundError):
        here = os.getcwd()
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.chdir(here)


@contextmanager
def keep_descriptors() -> Iterator[None]:
    """Afterwards the standard streams are open: else the next file of the run would get the number of one of them."""
    try:
        yield
    finally:
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def read_generators() -> dict[str, object]:
    """The state of the process's generators, to be compared."""
    numpy: Any = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (numpy[1].tobytes(), *numpy[2:]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def list_changed(before: dict[str, object]) -> list[str]:
    """Which of them somebody has drawn from."""
    return [name for name, state in read_generators().items() if state != before[name]]

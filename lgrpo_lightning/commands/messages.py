"""What ``lgrpo`` prints: errors; what it keeps off the terminal; and output that goes away, which ends no run."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lgrpo_lightning.errors import UserError

TRACEBACK = "LGRPO_TRACEBACK"
"""Environment variable: 1 shows the traceback of every error."""
ADVERTS = (
    "💡 Tip",
    "GPU available",
    "TPU available",
    "HPU available",
    "`Trainer.fit` stopped",
    "Seed set to",
    "While redistributing from",  # tensor parallelism gathers over two dimensions, one after the other
)
NOISE = (
    r".*treespec, LeafSpec.*",
    r".*does not have many workers.*",
    r".*You are using `torch.load` with `weights_only.*",
    r".*exists and is not empty.*",
    r".*of metric MeanMetric was called before.*",  # a validation to which no reward applied
    r"LightningCLI.s args parameter.*",
    r".*there is no last checkpoint available.*",  # LastCheckpoint says so itself
    r".*sync_dist=True.*when logging on epoch level.*",  # vLLM leaves torch.distributed initialised
)


def report(error: Exception) -> int:
    """Print ``error``: its message alone where it, or what caused it, is meant for the user, else the traceback.

    Returns:
        The exit status: 2 for an error that is meant for the user, 1 otherwise.
    """
    shown: BaseException | None = error
    while shown and not isinstance(shown, UserError | MisconfigurationException):
        shown = shown.__cause__  # the parser wraps what a component's __init__ raises
    if shown is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
    if shown is None:
        return 1
    print(f"lgrpo: {shown}", file=sys.stderr)
    return 2


def quieten() -> None:
    """Drop Lightning's adverts and known-harmless warnings; no progress bars of transformers in a pipe."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "torch.distributed.tensor._redistribute",
    ):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(ADVERTS))
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, what cannot be written to standard output or error any more (``| head``, a full disk) is dropped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Lasting:
    """A stream that goes to the null device from the first failure on."""

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 - it was closed

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except UnicodeError:
            raise
        except (OSError, ValueError):  # ValueError: it is closed
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())  # what is in its buffer goes there, too
                os.close(null)

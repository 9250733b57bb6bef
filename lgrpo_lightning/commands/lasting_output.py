"""Output that goes away (``| head``, a full disk, a terminal that was closed) ends no run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, what cannot be written to standard output or error any more is dropped."""
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

"""What runs in a worker process: reads answers from stdin, writes what math-verify says of them to stdout.

Run as a script, one JSON object a line in each direction. It needs math-verify alone, so that a worker starts
in half a second and stays at 60 MB. math-verify's own time-outs are off, because they are signals that its
``except`` clauses and C code can swallow: the parent process kills the worker instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

GRACE = 2.0
"""Seconds after its time-out at which an answer ends a worker that nobody kills, its parent being dead."""
BOX = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
MATHS = re.compile(r"[\\{}^_=+*/<>\d]")


def checked(request: dict[str, Any]) -> str:
    """The verdict on one answer.

    Args:
        request: ``gold`` (texts, any of which is right), ``text`` (the completion; None asks about the gold
            alone), ``extract``, ``strict`` and ``float_rounding``.

    Returns:
        "correct", "wrong" or "no_answer"; of gold alone "readable" or "unreadable".
    """
    golds = [expression for text in request["gold"] for expression in _gold(text)]
    if request["text"] is None:
        return "readable" if all(map(_readable, request["gold"])) else "unreadable"
    answers = _found(request["text"], request["extract"])
    if any(_equal(g, a, request) for g in golds for a in answers):
        return "correct"
    # What math-verify finds but cannot parse it returns as text, which only a gold text can be compared with.
    textual = all(isinstance(g, str) for g in golds)
    return "wrong" if any(textual or not isinstance(a, str) for a in answers) else "no_answer"


@lru_cache(maxsize=256)
def _gold(text: str) -> list[Any]:
    """The right answer as math-verify reads it: an expression and its text, or text alone, or nothing."""
    return _found(text, "any")


def _readable(gold: str) -> bool:
    """Whether a gold answer is an expression, or plain words."""
    found = _gold(gold)
    return any(not isinstance(f, str) or _is_words(f) for f in found)


def _is_words(text: str) -> bool:
    """Whether a text that is no expression is words, such as ``north``, and not mangled mathematics."""
    return any(map(str.isalpha, text)) and not (MATHS.search(text) or any(map(str.isnumeric, text)))


def _found(text: str, extract: str) -> list[Any]:
    """The answer in a text as math-verify's ``parse`` gives it; [] where there is none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    if extract == "boxed":
        inner = last_boxed(text)
        if inner is None:
            return []
        text = rf"\boxed{{{inner}}}"
    configs: list[Any] = [LatexExtractionConfig()]
    if extract == "any":
        configs.append(ExprExtractionConfig())
    try:
        return list(parse(text, configs, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # what math-verify cannot parse; its own default is the same empty list
        return []


def _equal(gold: Any, answer: Any, request: dict[str, Any]) -> bool:
    """Whether math-verify's ``verify`` holds two expressions for equal."""
    from math_verify import verify

    options = {"strict": request["strict"], "float_rounding": request["float_rounding"]}
    try:
        return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True, **options))
    except MemoryError:
        raise
    except Exception:  # what math-verify cannot compare; its own default is the same False
        return False


def last_boxed(text: str) -> str | None:
    r"""What stands in the last complete ``\boxed{...}`` of ``text``, or None; in linear time.

    >>> last_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}}"), last_boxed(r"\boxed{1"), last_boxed(r"\boxed{1} {")
    ('\\frac{1}{2}', None, '1')
    """
    opened: list[tuple[bool, int]] = []
    start, end = -1, -1
    for match in BOX.finditer(text):
        if match.group().endswith("{") and match.group() != r"\{":
            opened.append((match.group() != "{", match.end()))
        elif match.group() == "}" and opened:
            box, begin = opened.pop()
            if box and begin > start:
                start, end = begin, match.start()
    return None if start < 0 else text[start:end]


def limit_memory(megabytes: int) -> None:
    """Bound the address space of this process where the system can, and write no core files."""
    with contextlib.suppress(ImportError):  # Windows has no resource module
        import resource

        for kind, most in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def is_full(megabytes: int) -> bool:
    """Whether more than half of the address space is taken, by sympy's caches for one."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return False
    return pages * os.sysconf("SC_PAGE_SIZE") > (megabytes << 20) // 2


def reply_to(request: dict[str, Any], megabytes: int) -> dict[str, Any]:
    """The verdict, and whether the worker has to be replaced after it."""
    timer = getattr(signal, "setitimer", lambda *_: None)
    real = getattr(signal, "ITIMER_REAL", 0)
    timer(real, request["seconds"] + GRACE)
    try:
        verdict = checked(request)
    except MemoryError:
        return {"verdict": "crash", "last": True}
    finally:
        timer(real, 0)
    return {"verdict": verdict, "last": is_full(megabytes)}


def serve(requests: BinaryIO, replies: BinaryIO, megabytes: int) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        replies.write(json.dumps(reply_to(json.loads(line), megabytes)).encode() + b"\n")
        replies.flush()


def main(arguments: Sequence[str]) -> None:
    """Import math-verify, say so, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing but replies goes there, whatever prints
    error = ""
    try:
        import math_verify  # noqa: F401
    except ImportError as reason:
        error = f"{type(reason).__name__}: {reason}"
    replies.write(json.dumps({"error": error}).encode() + b"\n")
    replies.flush()
    if not error:
        os.dup2(1, 2)  # antlr prints every syntax error
        limit_memory(int(arguments[0]))
        serve(sys.stdin.buffer, replies, int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])

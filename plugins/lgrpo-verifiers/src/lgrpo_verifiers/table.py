"""Where the episodes' calls wait until all of them can be drawn together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_verifiers.wire import Answer


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of the policy that waits for its answer."""

    seat: int  # number of the episode
    agent: tuple[str, str]  # name of verifiers' agent that asks, and the id of its trace
    body: Mapping[str, Any]  # as OpenAI's chat completions have it
    answer: Callable[[Answer], None]  # from any thread


class GoneError(Exception):
    """The episode was given up."""


class Table:
    """Episodes are at work, or wait for the policy, or are over; calls are handed out when none is at work.

    So it depends on the episodes alone which calls are drawn together, and not on how fast they are.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working: set[int] = set()
        self._calls: dict[int, Call] = {}

    def sits(self, seat: int) -> None:
        """An episode begins."""
        with self._changed:
            self._working.add(seat)

    def calls(self, call: Call) -> None:
        """An episode waits for the policy.

        Raises:
            GoneError: It was given up.
            ValueError: It waits already.
        """
        with self._changed:
            if call.seat in self._calls:
                raise UserError("the policy is asked twice at a time within one episode; a completion is one sequence")
            if call.seat not in self._working:
                raise GoneError
            self._working.discard(call.seat)
            self._calls[call.seat] = call
            self._changed.notify_all()

    def leaves(self, seat: int) -> None:
        """An episode is over."""
        with self._changed:
            self._working.discard(seat)
            self._calls.pop(seat, None)
            self._changed.notify_all()

    def answer(self, call: Call, answer: Answer) -> None:
        """Answer a call that was handed out: its episode is at work again."""
        self.sits(call.seat)
        call.answer(answer)

    def gathered(self, timeout: float) -> tuple[list[Call], list[int]]:
        """(the calls of all episodes that wait, in the order of seats; the episodes that are given up).

        Args:
            timeout: Seconds that episodes may be at work; those that still are then, are given up.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while self._working and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            late, self._working = sorted(self._working), set()
            calls = [self._calls.pop(seat) for seat in sorted(self._calls)]
        return calls, late

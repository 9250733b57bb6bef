"""Environments for tests: well-behaved, TRL-like, and faulty ones."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lgrpo_lightning import Environment

if TYPE_CHECKING:
    from lgrpo_lightning.types import Message


class Echo(Environment):
    """Says how long the last turn was, ``turns`` times; pays that length each time."""

    def __init__(self, turns: int = 2, hint: str | None = None) -> None:
        self.turns, self.hint = turns, hint
        self.paid: list[float] = []
        self.columns: dict[str, Any] = {}

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        self.paid, self.columns = [], dict(columns)
        return self.hint

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        self.paid.append(float(len(turns[-1]["content"])))
        if len(self.paid) > self.turns:
            return None
        return [{"role": "user", "content": f"{len(turns[-1]['content'])}"}]

    def reward(self) -> list[float]:
        return self.paid


class Faulty(Echo):
    """Goes wrong, as ``how`` says, at its second answer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def respond(self, turns: Sequence[Message]) -> Any:
        if len(self.paid) == 1:
            self.paid.append(0.0)
            if self.how == "raises":
                raise RuntimeError("broken")
            if self.how == "hangs":
                time.sleep(60)
            return {"huge": [{"role": "user", "content": "9" * 10_000_000}], "number": 7, "text": "hello",
                    "bytes": [{"role": "user", "content": b"\xff"}], "nothing": []}[self.how]  # fmt: skip
        return super().respond(turns)

    def reward(self) -> Any:
        if self.how == "reward":
            raise RuntimeError("no reward")
        return sum(self.paid)


class Endless(Environment):
    """Never ends."""

    def respond(self, turns: Sequence[Message]) -> Sequence[Message]:
        return [{"role": "user", "content": "1"}]


class Counter:
    """An environment by TRL's conventions."""

    def reset(self, **columns: Any) -> str | None:
        self.value = int(columns.get("start", 0))
        return f" it is {self.value}"

    def increase(self, by: int) -> int:
        """Increase the counter.

        Args:
            by: How much.

        Returns:
            The new value.
        """
        self.value += by
        return self.value

    def get_reward(self) -> float:
        return float(self.value)


def multiply(a: int, b: int) -> int:
    """Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product of the two integers.
    """
    return a * b


async def slowly(a: int) -> int:
    """Gives a number back.

    Args:
        a: The number.
    """
    return a


def naughty(how: str) -> Any:
    """Goes wrong.

    Args:
        how: In which way.
    """
    if how == "raises":
        raise KeyError("nothing here")
    if how == "hangs":
        time.sleep(60)
    if how == "leaves":
        raise SystemExit(3)
    if how == "exits":
        os._exit(3)
    return {"bytes": b"\xff\xfe", "huge": "9" * 10_000_000, "none": None}[how]


class Index:
    """What the calls of a run share; it cannot be copied."""

    def __init__(self) -> None:
        self.lock, self.searches = threading.Lock(), 0

    def search(self, words: str) -> str:
        """Searches.

        Args:
            words: What for.
        """
        with self.lock:
            self.searches += 1
        return f"nothing about {words}"


def choose(kind: type) -> Any:
    def make() -> Any:
        return kind()

    return make


index = Index()
make_counter = choose(Counter)

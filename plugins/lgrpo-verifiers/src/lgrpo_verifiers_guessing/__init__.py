"""An environment of verifiers as an example: guess a digit, and hear whether it is larger (+) or smaller (-)."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import verifiers.v1 as vf

__all__ = ["Guessing", "GuessingEnv"]


class Number(vf.TaskData):
    """The digit to be guessed."""

    number: int


class GuessingTask(vf.Task[Number]):
    """Pays 1 for the right number, less 0.1 for each guess after the first."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """1 where the last guess is the number."""
        return float(bool(guesses := _guesses(trace)) and guesses[-1] == str(self.data.number))

    @vf.reward(weight=-0.1)
    async def further_guesses(self, trace: vf.Trace) -> float:
        """Guesses after the first."""
        return float(max(0, len(_guesses(trace)) - 1))


class GuessingConfig(vf.TasksetConfig):
    """How many tasks, and which."""

    count: int = 1000
    seed: int = 0


class Guessing(vf.Taskset[GuessingTask, GuessingConfig]):
    """Digits from 1 to 9, drawn evenly."""

    def load(self) -> Iterator[GuessingTask]:
        """The tasks."""
        draw = Random(self.config.seed)
        for n in range(self.config.count):
            yield GuessingTask(Number(name=str(n), prompt="+", number=draw.randint(1, 9)), self.config.task)


class GuessingEnvConfig(vf.EnvConfig):
    """The player, and how often it may guess."""

    player: vf.AgentConfig = vf.AgentConfig()
    guesses: int = 5


class GuessingEnv(vf.Env[GuessingEnvConfig]):
    """Answers each guess, until it is right or there are no more."""

    async def run(self, task: GuessingTask, agents: vf.Agents) -> None:
        """One game."""
        async with agents.player.interaction(task) as game:
            said = await game.turn()
            for _ in range(self.config.guesses - 1):
                guess = said.last_reply.removesuffix("=")
                if said.terminated or guess == str(task.data.number):
                    break
                larger = not guess.isdigit() or int(guess) < task.data.number
                said = await game.turn("+" if larger else "-")


def _guesses(trace: vf.Trace) -> list[str]:
    return [(m.content or "").strip().removesuffix("=") for m in trace.assistant_messages]

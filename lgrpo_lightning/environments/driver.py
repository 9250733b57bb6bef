"""Calls of environments, from the beginning of their episodes to the end, and what follows where they fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, Literal

from lgrpo_lightning.distributed.interruption import abandon_if_stopping, carry_context
from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.episode import Episode
from lgrpo_lightning.environments.limits import RAISED, StateLostError, call_environment, limit_answer, name_class
from lgrpo_lightning.environments.messages import check_answer, check_rewards
from lgrpo_lightning.environments.tools import describe_error
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message, Prompt

OnError = Literal["message", "drop"]


class EpisodeDriver:
    """Gives each episode an environment, and calls those of many episodes side by side.

    Rollouts in which every answer, or every reward, fails are counted. Whole rollouts, not calls: calls run side by
    side, and an order of theirs would differ from run to run.

    Args:
        prototypes: Name → what environments are copies of; the name is None where there is one for all prompts.
        timeout, on_error, max_answer_chars, workers, max_errors_in_a_row: As in ``EnvironmentSampler``.
    """

    def __init__(
        self,
        prototypes: Mapping[str | None, Environment],
        *,
        timeout: float,
        on_error: OnError,
        max_answer_chars: int,
        workers: int,
        max_errors_in_a_row: int,
    ) -> None:
        self.prototypes, self.timeout, self.on_error = prototypes, timeout, on_error
        self.max_answer_chars, self.workers, self.max_errors_in_a_row = max_answer_chars, workers, max_errors_in_a_row
        self.idle: dict[str | None, list[Environment]] = {}  # environments that wait for another episode
        self.errors_in_a_row = 0
        self._calls: dict[str, list[BaseException | None]] = {}

    def begin_rollout(self) -> None:
        """Count anew which calls fail."""
        self._calls = {"respond": [], "reward": []}

    def begin_episodes(self, prompt: Prompt, count: int, seed: int) -> tuple[list[Episode], str | None]:
        """(``count`` episodes of a prompt, what their environments say first, which has to be the same)."""
        name = self._find_name(prompt)
        waiting = self.idle.get(name, [])
        environments = [waiting.pop() if waiting else deepcopy(self.prototypes[name]) for _ in range(count)]
        observations = [self._reset(environment, seed, prompt) for environment in environments]
        if other := next((text for text in observations if text != observations[0]), None):
            raise UserError(
                f"The environment's reset() told completions of prompt {prompt.uid!r} different things: "
                f"{observations[0]!r} and {other!r}. The completions of a group are compared, and need "
                "one task: draw it from the data columns, or from Environment.seed."
            )
        episodes = [Episode(prompt=prompt, member=m, environment=e) for m, e in enumerate(environments)]
        return episodes, observations[0] if observations else None

    def _reset(self, environment: Environment, seed: int, prompt: Prompt) -> str | None:
        environment.seed = seed
        # an environment may change what it is given; the other members get the same prompt
        columns = dict(prompt.copy().columns)
        return call_environment(environment, lambda: environment.reset(columns), timeout=self.timeout)  # type: ignore[no-any-return]

    def _find_name(self, prompt: Prompt) -> str | None:
        """Which environment a prompt has."""
        if None in self.prototypes:
            return None
        name = prompt.columns.get("environment")
        if name not in self.prototypes:
            there = ", ".join(map(repr, self.prototypes))
            raise UserError(f"Prompt {prompt.uid!r} has {name!r} in its column 'environment'; there are {there}.")
        return str(name)

    def end_episode(self, episode: Episode) -> None:
        """Close the environment, for another episode; one that hangs, or cannot be closed, is left alone."""
        environment = episode.environment
        if episode.lost or getattr(environment, "lost", False):
            return
        try:
            call_environment(environment, environment.close, timeout=self.timeout)
        except RAISED:
            return  # the next episode has a new one
        self.idle.setdefault(self._find_name(episode.prompt), []).append(environment)

    def end_rollout(self, who: str) -> None:
        """An error where it is one too many in which every call failed."""
        failed = [(m, errors[-1]) for m, errors in self._calls.items() if errors and None not in errors]
        self.errors_in_a_row = self.errors_in_a_row + 1 if failed else 0
        if self.errors_in_a_row >= self.max_errors_in_a_row:
            method, error = failed[0]
            raise UserError(
                f"EnvironmentSampler: in {self.errors_in_a_row} rollouts in a row (max_errors_in_a_row) every call of "
                f"{who}.{method} failed. The last time: {type(error).__name__}: {error}"
            ) from error

    def call_each(self, episodes: Sequence[Episode], call: Callable[[Episode], Any]) -> list[Any]:
        """What ``call`` gives for each episode, on threads."""
        if not episodes:
            return []

        def call_one(episode: Episode) -> Any:
            abandon_if_stopping()
            return call(episode)

        with ThreadPoolExecutor(min(self.workers, len(episodes))) as pool:
            return list(pool.map(carry_context(call_one), episodes))

    def answer(self, episode: Episode) -> Sequence[Message] | None:
        """The environment's messages to the last turn, or None at the end of the episode."""
        environment = episode.environment

        def respond() -> Sequence[Message] | None:
            calls = len(episode.messages[-1].get("tool_calls", ()))
            timeout = limit_answer(environment, self.timeout)
            turns = tuple(episode.messages)
            answer = call_environment(environment, lambda: environment.respond(turns), timeout=timeout)
            return check_answer(answer, name_class(environment), self.max_answer_chars, calls=calls)

        answer, error = self._try(episode, "respond", respond)
        if error is None:
            return answer  # type: ignore[no-any-return]
        if self.on_error == "drop" or isinstance(error, StateLostError):
            episode.drop()
            return None
        text = str({"error": f"{type(error).__name__}: {describe_error(error)}"})[: self.max_answer_chars]
        return [{"role": "user", "content": text}]

    def reward(self, episode: Episode) -> None:
        """Read the rewards of an episode that is over; where that fails it is dropped."""
        environment, turns = episode.environment, sum(turn.role == "assistant" for turn in episode.turns)

        def reward() -> tuple[float, ...]:
            rewards = call_environment(environment, environment.reward, timeout=self.timeout)
            return check_rewards(rewards, name_class(environment), turns)

        if episode.dropped:
            return
        rewards, error = self._try(episode, "reward", reward)
        if error is None:
            episode.rewards = rewards
        else:
            episode.drop()

    def _try(self, episode: Episode, method: str, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """(what ``call`` gives, None), or (None, what it raised)."""
        try:
            result = call()
        except RAISED as error:
            self._calls[method].append(error)
            # a call that hangs may still change the environment: no other episode gets it
            episode.lost |= isinstance(error, TimeoutError | StateLostError)
            return None, error
        self._calls[method].append(None)
        return result, None

"""Calls of the environments of running episodes, and what follows where they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from lgrpo_lightning.distributed.interruption import abandon_if_stopping, carry_context
from lgrpo_lightning.environments.episode import Episode
from lgrpo_lightning.environments.limits import (
    RAISED,
    StateLostError,
    call_environment,
    limit_answer,
    name_class,
)
from lgrpo_lightning.environments.messages import check_answer, check_rewards
from lgrpo_lightning.environments.tools import describe_error
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.types import Message

OnError = Literal["message", "drop"]


class EpisodeDriver:
    """Calls environments side by side, and counts rollouts in which every answer, or every reward, fails.

    Whole rollouts are counted, not calls: calls run side by side, and an order of theirs would differ from run to run.

    Args:
        timeout, on_error, max_answer_chars, workers, max_errors_in_a_row: As in ``EnvironmentSampler``.
    """

    def __init__(
        self,
        *,
        timeout: float,
        on_error: OnError,
        max_answer_chars: int,
        workers: int,
        max_errors_in_a_row: int,
    ) -> None:
        require(
            "EnvironmentSampler: ",
            locals(),
            (timeout > 0, "timeout", "above 0"),
            (on_error in ("message", "drop"), "on_error", "'message' or 'drop'"),
            (max_errors_in_a_row >= 1, "max_errors_in_a_row", "at least 1"),
            (max_answer_chars >= 1, "max_answer_chars", "at least 1"),
            (workers >= 1, "workers", "at least 1"),
        )
        self.timeout, self.on_error, self.max_answer_chars = timeout, on_error, max_answer_chars
        self.workers, self.max_errors_in_a_row = workers, max_errors_in_a_row
        self.errors_in_a_row = 0
        self._calls: dict[str, list[BaseException | None]] = {}

    def begin(self) -> None:
        """Begin a rollout."""
        self._calls = {"respond": [], "reward": []}

    def check(self, who: str) -> None:
        """End a rollout; a ``UserError`` where it is one too many in which every call failed."""
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

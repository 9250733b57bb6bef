"""Environments that wait for an episode."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.episode import Episode
from lgrpo_lightning.environments.limits import RAISED, call_environment
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Hands an environment to each episode: one that another has given back, or a new copy of its prototype.

    Attributes:
        prototypes: By name; the name is None where there is one for all prompts.
        timeout: Seconds that beginning an episode may take.
    """

    prototypes: Mapping[str | None, Environment]
    timeout: float
    idle: dict[str | None, list[Environment]] = field(default_factory=dict)

    def begin(self, prompt: Prompt, count: int, seed: int) -> tuple[list[Episode], str | None]:
        """(``count`` episodes of a prompt, what their environments say first, which has to be the same)."""
        name = self._find_name(prompt)
        episodes = [Episode(prompt=prompt, member=m, environment=self._take(name)) for m in range(count)]
        observations = [self._reset(episode.environment, seed, prompt) for episode in episodes]
        if other := next((text for text in observations if text != observations[0]), None):
            raise UserError(
                f"The environment's reset() told completions of prompt {prompt.uid!r} different things: "
                f"{observations[0]!r} and {other!r}. The completions of a group are compared, and need "
                "one task: draw it from the data columns, or from Environment.seed."
            )
        return episodes, observations[0] if observations else None

    def put_back(self, episode: Episode) -> None:
        """The episode is over; an environment that hangs, or cannot be closed, is left alone."""
        environment = episode.environment
        if episode.lost or getattr(environment, "lost", False):
            return
        try:
            call_environment(environment, environment.close, timeout=self.timeout)
        except RAISED:
            return  # the next episode has a new one
        self.idle.setdefault(self._find_name(episode.prompt), []).append(environment)

    def _reset(self, environment: Environment, seed: int, prompt: Prompt) -> str | None:
        environment.seed = seed
        # an environment may change what it is given; the other members get the same prompt
        columns = dict(prompt.copy().columns)
        observation: str | None = call_environment(
            environment, lambda: environment.reset(columns), timeout=self.timeout
        )
        return observation

    def _take(self, name: str | None) -> Environment:
        waiting = self.idle.get(name)
        return waiting.pop() if waiting else copy.deepcopy(self.prototypes[name])

    def _find_name(self, prompt: Prompt) -> str | None:
        """Which environment a prompt has."""
        if None in self.prototypes:
            return None
        name = prompt.columns.get("environment")
        if name not in self.prototypes:
            there = ", ".join(map(repr, self.prototypes))
            raise UserError(f"Prompt {prompt.uid!r} has {name!r} in its column 'environment'; there are {there}.")
        return str(name)

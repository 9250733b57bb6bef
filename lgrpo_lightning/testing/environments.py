"""Checks that an environment fulfils its contract."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning.contracts import Environment
from lgrpo_lightning.environments.messages import check_answer, check_rewards
from lgrpo_lightning.types import Message


def check_environment(
    environment: Environment,
    columns: Mapping[str, Any] | None = None,
    turns: Sequence[str] = ("1", "2", "", "5"),
) -> list[Message]:
    """Assert that ``environment`` fulfils its contract, and return the messages of an episode.

    Checked are that copies with the same seed and columns begin and answer alike and do not share what happens in an
    episode, that answers are messages, that there is a reward, and that an episode can begin anew.

    Args:
        columns: Data columns of a prompt.
        turns: What the policy says, turn by turn, until the episode ends.
    """
    who = type(environment).__name__
    one, other = copy.deepcopy(environment), copy.deepcopy(environment)
    first = _play(one, columns or {}, turns, who)
    assert _play(other, columns or {}, turns, who) == first, f"{who}: a copy plays another episode"
    assert _play(one, columns or {}, turns, who) == first, f"{who}: a second episode is not the first one again"
    return first


def _play(environment: Environment, columns: Mapping[str, Any], turns: Sequence[str], who: str) -> list[Message]:
    environment.seed = 7
    said = environment.reset(dict(columns))
    assert said is None or isinstance(said, str), f"{who}.reset returned {said!r}; it returns a text, or None"
    history: list[Message] = []
    for turn in turns:
        history.append({"role": "assistant", "content": turn})
        answer = check_answer(environment.respond(tuple(history)), who, 1_000_000)
        if answer is None:
            break
        history.extend(answer)
    check_rewards(environment.reward(), who, sum(message["role"] == "assistant" for message in history))
    environment.close()
    return history if said is None else [{"role": "user", "content": said}, *history]

"""What passes between policy and environment, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Completion, Message

LONGEST_ROLE = 100


def make_assistant_message(turn: Completion, calls: Sequence[ToolCall]) -> Message:
    """A turn as a message: its whole text, and the calls in it, where there are any."""
    plain = {"role": "assistant", "content": turn.text}
    return {**plain, "tool_calls": [call.message for call in calls]} if calls else plain


def check_answer(answer: Any, who: str, longest: int, *, calls: int = 0) -> list[Message] | None:
    """The messages of an environment; None at the end of the episode.

    All of them together have ``longest`` characters: what is longer is cut off, and says so. Of the messages beyond,
    those stay, cut to nothing, that answer the turn's tool calls: the first ``calls`` of the role tool.

    Raises:
        TypeError: They are no messages.
        ValueError: One has too much beside its content.
    """
    if answer is None:
        return None
    if isinstance(answer, Mapping):
        answer = [answer]
    if isinstance(answer, str | bytes) or not isinstance(answer, Sequence) or not answer:
        raise UserError(f"{who}.respond returned {_shorten(answer)}; it returns a list of messages, or None at the end")
    checked: list[Message] = []
    left, owed = longest, calls
    for message in answer:
        if left <= 0 and not owed:
            break
        beside = _check_message(message, who)
        called = owed > 0 and message["role"] == "tool"
        if left <= 0 and not called:
            continue
        if beside > (longest if called else left):
            raise UserError(
                f"{who}.respond returned a message with {beside} characters beside role and content; an answer may "
                f"have {longest} in all (max_answer_chars)"
            )
        checked.append({**message, "content": _cut(message["content"], max(left - beside, 0))})
        left -= beside + max(len(message["content"]), 1)
        owed -= called
    if more := len(answer) - len(checked):
        checked[-1] = {**checked[-1], "content": f"{checked[-1]['content']}… ({more} more messages, left out here)"}
    return checked


def _check_message(message: Any, who: str) -> int:
    """Characters that a message has beside its role and content."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UserError(f"{who}.respond returned {_shorten(message)}, which is no message with role and content")
    if message["role"] == "assistant":
        raise UserError(f"{who}.respond returned a message of the role assistant, which is the policy's")
    if len(message["role"]) > LONGEST_ROLE:
        raise UserError(
            f"{who}.respond returned a message whose role has {len(message['role'])} characters; a role has at most "
            f"{LONGEST_ROLE}"
        )
    if not isinstance(message.get("content"), str):
        raise UserError(f"{who}.respond returned a message whose content is {_shorten(message.get('content'))}")
    beside = {key: value for key, value in message.items() if key not in ("role", "content")}
    return len(str(beside)) if beside else 0


def check_rewards(rewards: Any, who: str, turns: int) -> tuple[float, ...]:
    """What an environment pays: one number, or one for each of ``turns``; NaN where it does not apply.

    A last turn that was cut off, so that the environment has not seen it, has the reward 0.

    Raises:
        TypeError, ValueError: It is neither.
    """
    if rewards is None:
        return (math.nan,)
    if not isinstance(rewards, list | tuple):
        return (float(rewards + 0.0),)  # the sum refuses strings
    if len(rewards) not in (turns - 1, turns):
        raise UserError(f"{who}.reward gave {len(rewards)} numbers for {turns} turns; it gives one, or one a turn")
    numbers = tuple(math.nan if v is None else float(v + 0.0) for v in rewards)
    return (*numbers, 0.0)[:turns]


def _cut(text: str, longest: int) -> str:
    text = text.encode(errors="replace").decode()
    cut = f"{text[:longest]}… ({len(text)} characters, cut off here)"
    return text if len(text) <= max(longest, len(cut)) else cut


def _shorten(value: Any) -> str:
    shown = repr(value)
    return f"{shown[:80]}… (a {type(value).__name__})" if len(shown) > 80 else f"{shown} (a {type(value).__name__})"

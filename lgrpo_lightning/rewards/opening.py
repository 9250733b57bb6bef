"""The text that rewards read, with the tags that its prompt opened and it closes, and the answer in it."""

from __future__ import annotations

import re

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Completion, Group, Prompt

TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)>\s*")
OPENED = re.compile(r"(?:<[A-Za-z][\w-]*>\s*)+\Z")


def complete_tags(group: Group) -> list[str]:
    """Each completion's text, after the tags that its prompt leaves open and it closes. No other word of the prompt
    counts: what the prompt says is not the policy's answer. Nor does what an environment says between its turns.

    >>> from lgrpo_lightning.testing import toy_group
    >>> complete_tags(toy_group(["2</think> 3", "<think>1</think> 2", "4"], prompt="1+2=<think>"))
    ['<think>2</think> 3', '<think>1</think> 2', '4']
    """
    tags = _find_open_tags(_find_begun(group.prompt))
    return [_add_tags(tags, _join_own_text(completion)) for completion in group.completions]


def compile_extract(owner: str, extract: str, possible: str) -> re.Pattern[str]:
    """The regular expression of an option ``extract``, for ``find_last``; its dot matches line breaks, too.

    Args:
        owner: Whose option it is, for the message.
        possible: What it may be.

    Raises:
        ValueError: It is none, or has no group.
    """
    try:
        pattern = re.compile(extract, re.DOTALL)
    except re.error as error:
        raise UserError(
            f"{owner}: extract is {extract!r}, which is no valid regular expression: {error}. Possible {possible}."
        ) from error
    if not pattern.groups:
        raise UserError(f"{owner}: extract is {extract!r}, which has no group. Possible {possible}.")
    return pattern


def find_last(pattern: re.Pattern[str], text: str) -> str | None:
    """What the first group holds of the last match that has it; None where there is none."""
    return next((m[1] for m in reversed(list(pattern.finditer(text))) if m[1] is not None), None)


def _find_begun(prompt: Prompt) -> str:
    """The part of the answer that the prompt already has: the assistant's last message, or the tags at its end."""
    if prompt.messages and prompt.messages[-1]["role"] == "assistant":
        return str(prompt.messages[-1]["content"])
    match = OPENED.search(prompt.text)
    return match[0] if match else ""


def _join_own_text(completion: Completion) -> str:
    """A completion's text; for an episode the assistant's turns, one per line."""
    if not completion.turns:
        return completion.text
    own = [turn for turn in completion.turns if turn.role == "assistant"]
    return "\n".join(completion.text_between(turn.start, turn.end) for turn in own)


def _find_open_tags(text: str) -> list[tuple[str, str]]:
    """(name, the tag as it is written) of the tags that ``text`` opens and does not close, the outermost first."""
    opened: list[tuple[str, str]] = []
    for tag in TAG.finditer(text):
        if not tag[1]:
            opened.append((tag[2], tag[0]))
        elif (names := [name for name, _ in opened]) and tag[2] in names:
            del opened[len(names) - 1 - names[::-1].index(tag[2]) :]
    return opened


def _add_tags(tags: list[tuple[str, str]], text: str) -> str:
    """``text`` after those of the open ``tags`` that it closes without opening them itself."""
    closed, opened = set[str](), list[str]()
    for tag in TAG.finditer(text):
        if not tag[1]:
            opened.append(tag[2])
        elif tag[2] in opened:
            opened.remove(tag[2])
        else:
            closed.add(tag[2])
    return "".join(written for name, written in tags if name in closed) + text

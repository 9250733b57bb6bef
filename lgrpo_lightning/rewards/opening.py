"""The text that rewards read: the policy's own text, and tags that its prompt opened and it closes."""

from __future__ import annotations

import re

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

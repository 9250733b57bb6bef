"""Tags that a chat template opens for the model, so that a completion only closes them."""

from __future__ import annotations

import re

from lgrpo_lightning.types import Group

OPENED = re.compile(r"<([A-Za-z][\w-]*)>\s*\Z")


def opened_texts(group: Group) -> list[str]:
    """Each completion's text, after the tag that its prompt ends with and it only closes.

    >>> from lgrpo_lightning.testing import toy_group
    >>> opened_texts(toy_group(["2</think> 3", "<think>1</think> 2"], prompt="1+2=<think>"))
    ['<think>2</think> 3', '<think>1</think> 2']
    """
    found = OPENED.search(group.prompt.text)
    if found is None:
        return [rollout.text for rollout in group.rollouts]
    tag = found[0]
    return [
        rollout.text if rollout.text.lstrip().startswith(tag.strip()) else tag + rollout.text
        for rollout in group.rollouts
    ]

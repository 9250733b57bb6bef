"""Tags that a chat template opens for the model, so that a completion only closes them."""

from __future__ import annotations

import re

from lgrpo_lightning.types import Group

OPENED = re.compile(r"<([A-Za-z][\w-]*)>\s*(?:</\1>\s*)?\Z")
"""A tag at the end, or an empty pair of tags: reasoning that is switched off."""


def opened_texts(group: Group) -> list[str]:
    """Each completion's text, after the tag that its prompt ends with and it only closes.

    >>> from lgrpo_lightning.testing import toy_group
    >>> opened_texts(toy_group(["2</think> 3", "<think>1</think> 2"], prompt="1+2=<think>"))
    ['<think>2</think> 3', '<think>1</think> 2']
    """
    messages, found = group.prompt.messages, OPENED.search(group.prompt.text)
    begun = found[0] if found else ""
    if messages and messages[-1]["role"] == "assistant":
        begun = str(messages[-1]["content"])  # the completion goes on with it
    tag = begun.split(">")[0].strip()
    return [
        r.text if begun and r.text.lstrip().startswith(f"{tag}>") else begun + r.text for r in group.rollouts
    ]

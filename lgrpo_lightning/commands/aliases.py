"""Keys of a configuration that are words of Python, so that no argument can have their name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import yaml
from jsonargparse import set_dumper, set_loader

from lgrpo_lightning.commands import yaml_text
from lgrpo_lightning.policy import Lora


def install_aliases(words: Sequence[str]) -> list[str]:
    """Have ``policy.lora.from`` stand for ``from_adapter``, in YAML and among the ``words`` of the command line."""
    set_loader("yaml", _loaded, (yaml.YAMLError,))
    set_dumper("yaml", yaml_text.dumped)
    return [re.sub(r"^(--\S*\.lora)\.from\b", r"\1.from_adapter", word) for word in words]


def _loaded(text: str) -> Any:
    """What the YAML stands for: a whole configuration, or the options of an adapter alone."""
    value = lora = yaml_text.loaded(text)
    for key in ("model", "policy", "lora"):
        lora = lora.get(key) if isinstance(lora, dict) else None
    for options in (lora, value):
        if isinstance(options, dict) and {"from"} <= set(options) <= {
            "from",
            *(f.name for f in fields(Lora)),
        }:
            options["from_adapter"] = options.pop("from")
    return value

"""Masks keys and passwords of a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MASK = "***"
SECRET = re.compile(r"(?i)(.*[_-])?(api_?key|key|token|secret|password|passwd|passphrase|credential|authorization)")
SPECIAL = re.compile(r"(?i)(pad|eos|bos|unk|cls|sep|mask|start|end|stop|image)_token")
"""Tokens of a tokenizer."""


def is_secret(name: str) -> bool:
    """Whether a name, by its last word, is that of a secret.

    >>> [n for n in ("api_key", "HF-Token", "max_new_tokens", "pad_token", "tokenizer", "keyword") if is_secret(n)]
    ['api_key', 'HF-Token']
    """
    return bool(SECRET.fullmatch(name)) and not SPECIAL.fullmatch(name)


def mask_secrets(value: Any, key: str = "") -> Any:
    """``value``, found under the dotted ``key``, with ``***`` for each text in it that is secret.

    >>> mask_secrets({"kwargs": {"api_key": "abc", "model": "m"}})
    {'kwargs': {'api_key': '***', 'model': 'm'}}
    """
    if isinstance(value, Mapping):
        return {name: mask_secrets(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask_secrets(inner, key) for inner in value]
    return MASK if isinstance(value, str) and is_secret(key.rpartition(".")[2]) else value


def mask_yaml(text: str) -> str:
    """The YAML text of a configuration with masked secrets and without comments.

    Raises:
        yaml.YAMLError: It is none.
    """
    config = yaml.safe_load(text)
    return "" if config is None else str(yaml.safe_dump(mask_secrets(config), sort_keys=False, allow_unicode=True))

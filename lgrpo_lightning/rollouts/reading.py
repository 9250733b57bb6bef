"""Reading files of a run that may be damaged, and masking the keys and passwords in a configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import show_path

MASK = "***"
SECRET = re.compile(r"(?i)(.*[_-])?(api_?key|key|token|secret|password|passwd|passphrase|credential|authorization)")
SPECIAL = re.compile(r"(?i)(pad|eos|bos|unk|cls|sep|mask|start|end|stop|image)_token")
"""Tokens of a tokenizer."""


@contextmanager
def skip_if_damaged(path: Path, told: set[Path]) -> Iterator[None]:
    """Skip ``path`` if reading fails, with one line of warning for all that share ``told``."""
    try:
        yield
    except Exception as error:  # whatever a reader makes of bytes that are not its own
        if path not in told:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"Left out: {show_path(path)}: {reason}", file=sys.stderr)
        told.add(path)


def read_config(path: Path) -> Mapping[str, Any]:
    """The configuration in a YAML file.

    Raises:
        ValueError: There is none.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{show_path(path)} holds no configuration: {error}") from error
    if not isinstance(config, Mapping):
        raise UserError(f"{show_path(path)} holds no configuration.")
    return config


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

"""What one mistake is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One mistake.

    Attributes:
        did: What was done, in Markdown.
        says: What the answer has to contain.
        config: Dotted key → value in the YAML file; None takes the key out.
        flags: Words on the command line after the config.
        files: Name → content of files in the working folder.
        prepare: Does the rest in the working folder.
        yaml: The whole text of the YAML file in place of the quickstart's.
        rollouts: Whether the mistake can only be seen once completions exist.
        ours: Whether every word of the answer is this library's own; others change with their packages, so
            they are not on the page.
        during: A context in which the run is made.
    """

    did: str
    says: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None
    yaml: str | None = None
    rollouts: bool = False
    ours: bool = True
    during: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def component(name: str, **init_args: Any) -> dict[str, Any]:
    """A component as YAML has it."""
    return {"class_path": name, "init_args": init_args} if init_args else {"class_path": name}


def own(path: str = "prompts.jsonl", **init_args: Any) -> dict[str, Any]:
    """``data.train``: a file."""
    return {"data.train": component("PromptFile", path=path, **init_args)}

"""The environments of a run, from what its configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.contracts import Environment
from lgrpo_lightning.environments.calls import FORMATS, format_of
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.options import listed
from lgrpo_lightning.rewards.import_path import imported


def environments(
    environment: Environment | str | Mapping[str, str] | None,
    tools: list[str] | None,
    *,
    tool_format: str | None,
    timeout: float,
    chat_template: Any = None,
) -> dict[str | None, Environment]:
    """Name → what its episodes' environments are copies of; the name is None where there is one for all prompts.

    Args:
        environment, tools: As in ``EnvironmentSampler``.
        tool_format: How calls are written; None reads it off ``chat_template``.
        timeout: Seconds that a call of a tool may take.

    Raises:
        ValueError: There is neither, a format is unknown, or something named cannot be imported or used.
    """
    if tool_format is not None and tool_format not in FORMATS:
        raise ValueError(
            f"EnvironmentSampler: tool_format is {tool_format!r}; possible are auto, {', '.join(FORMATS)}."
        )
    functions = [imported(path) for path in listed("EnvironmentSampler: tools", tools or [])]
    if isinstance(environment, Environment):
        if functions:
            raise ValueError(
                "EnvironmentSampler: tools go with environments by TRL's conventions (import paths); an Environment "
                "offers its own (Environment.tools)."
            )
        return {None: environment}
    if not environment and not functions:
        raise ValueError("EnvironmentSampler needs an environment, or tools.")
    named: Mapping[str | None, str | None]
    named = environment if isinstance(environment, Mapping) else {None: environment}  # type: ignore[assignment]
    format = tool_format or format_of(chat_template if isinstance(chat_template, str) else None)
    return {name: _made(path, functions, format, timeout) for name, path in named.items()}


def _made(path: str | None, functions: list[Any], format: str, timeout: float) -> Environment:
    factory = None if path is None else imported(path)
    if isinstance(factory, type) and issubclass(factory, Environment):
        return factory()
    if factory is not None and not callable(factory):
        raise ValueError(
            f"EnvironmentSampler: {path!r} is no class, and cannot be called to make an environment."
        )
    return ToolEnvironment(functions, factory, format=format, timeout=timeout)

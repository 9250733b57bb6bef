"""Tools and environments → ``EnvironmentSampler``."""

from __future__ import annotations

from lgrpo_lightning.commands.migration.draft import Draft

UNLIMITED = 100
"""Turns where TRL sets no limit; the length of the completion ends an episode before."""


def write_environments(draft: Draft, key: str) -> None:
    """The keys of an ``EnvironmentSampler`` at ``key``."""
    recipe, options = draft.recipe, f"{key}.init_args"
    draft.put(f"{key}.class_path", "EnvironmentSampler", "tools, environment_factory")
    for part in (*recipe.tools, *recipe.environments.values()):
        if part.said:
            draft.remark(part.said)
    if tools := [tool.path for tool in recipe.tools if tool.path is not None]:
        draft.put(f"{options}.tools", tools, "tools")
    found = {name: made.path for name, made in recipe.environments.items() if made.path is not None}
    if found:
        value = found[""] if set(found) == {""} else found
        draft.put(f"{options}.environment", value, "environment_factory")
    limit = draft.value("max_tool_calling_iterations")
    said = "max_tool_calling_iterations: turns of the assistant, one more"
    draft.put(f"{options}.max_turns", UNLIMITED if limit is None else limit + 1, said)
    if more := draft.value("chat_template_kwargs"):
        draft.put(f"{options}.chat_template_kwargs", more, "chat_template_kwargs")

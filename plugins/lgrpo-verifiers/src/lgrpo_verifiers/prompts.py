"""The tasks of a verifiers environment as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lgrpo_lightning import PromptSource
from lgrpo_lightning.errors import UserError, mapped
from lgrpo_verifiers.configuration import environment_config
from lgrpo_verifiers.wire import plain_messages

OPENS = "(The environment begins.)"
"""Stands for the prompt of a task that has none, because its environment speaks first."""


class VerifiersPrompts(PromptSource):
    """The tasks of an environment of verifiers, for ``VerifiersSampler``.

    A row has the columns ``prompt``, ``task`` (the task's own data), and ``task_index`` and ``task_key``, by which the
    sampler finds the task again.

    Args:
        environment: Id of the installed package (or module) that has the tasks.
        environment_args: What stands under ``--env`` of verifiers' commands; the sampler's.
        select: Which tasks: ``limit``, ``skip``, ``shuffle``, ``seed``, ``include``, ``exclude``, as verifiers'
            ``--select``. Give training and validation different ones.
        chat: Prompts are messages, for a chat template; false: the messages' texts one after the other.

    Raises:
        ValueError: There is no such environment, it refuses its arguments, or its tasks never end.
    """

    def __init__(
        self,
        environment: str,
        environment_args: dict[str, Any] | None = None,
        select: dict[str, Any] | None = None,
        chat: bool = True,
    ) -> None:
        self.environment, self.chat = environment, chat
        self.environment_args = mapped("VerifiersPrompts: environment_args", environment_args or {})
        self.select = mapped("VerifiersPrompts: select", select or {})
        self._tasks()

    def rows(self) -> Sequence[dict[str, Any]]:
        return [self._row(task) for task in self._tasks()]

    def _tasks(self) -> Any:
        import verifiers.v1 as vf

        config = environment_config("VerifiersPrompts", self.environment, self.environment_args)
        try:
            tasks = vf.load_taskset(config.taskset).select(vf.SelectConfig.model_validate(self.select))
        except ValueError as error:
            raise UserError(f"VerifiersPrompts: select is {self.select!r}: {error}") from error
        if not tasks.bounded:
            raise UserError(
                f"VerifiersPrompts: the tasks of {self.environment!r} never end. Say how many: select: {{limit: 1000}}."
            )
        return tasks

    def _row(self, task: Any) -> dict[str, Any]:
        messages = opening(task)
        return {
            "prompt": messages if self.chat else "".join(str(m["content"]) for m in messages),
            "task": task.data.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "task_index": task.data.idx,
            "task_key": task.key,
        }


def opening(task: Any) -> list[dict[str, Any]]:
    """The messages that a task begins with: system prompt and prompt, or ``OPENS`` where it has no prompt."""
    from verifiers.v1.dialects.chat import message_to_wire

    prompt, system = task.data.prompt, task.data.system_prompt
    if not isinstance(prompt, str | None):
        said = plain_messages([message_to_wire(m) for m in prompt])
    else:
        said = [{"role": "user", "content": prompt or OPENS}]
    return [*([{"role": "system", "content": system}] if system else []), *said]

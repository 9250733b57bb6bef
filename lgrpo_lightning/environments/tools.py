"""What answers tool calls: functions, and perhaps an object whose methods are tools."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.toolbox import Toolbox, run
from lgrpo_lightning.errors import UserError


class Tools:
    """Tools by TRL's conventions, and the object that some of them belong to.

    Args:
        functions: Tools that belong to no object.
        factory: Makes an object whose public methods are tools; ``reset(**columns)`` begins an episode, and
            ``get_reward()``, where there is one, tells its worth. Null: there are only ``functions``.

    Raises:
        ValueError: Two tools have one name, or the object has no ``reset``.
    """

    def __init__(
        self, functions: Sequence[Callable[..., Any]] = (), factory: Callable[[], Any] | None = None
    ) -> None:
        self.object = None if factory is None else factory()
        self.toolbox = Toolbox([*functions, *_methods(self.object)])

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions and the object's methods."""
        return tuple(self.toolbox.functions.values())

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew: the object's ``reset`` is given the data columns."""
        if self.object is None:
            return None
        found = self.object.reset(**columns)
        return None if found is None else str(run(found) if inspect.isawaitable(found) else found)

    def called(self, call: ToolCall) -> str:
        """What a tool answers, as text.

        Raises:
            ToolError: The call cannot be made.
            Exception: What the tool raises.
        """
        return self.toolbox.called(call)

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        if not hasattr(self.object, "get_reward"):
            return None
        found = self.object.get_reward()  # type: ignore[union-attr]
        found = run(found) if inspect.isawaitable(found) else found
        return None if found is None else float(found)


def _methods(owner: Any) -> list[Callable[..., Any]]:
    """The public methods of an object but ``reset`` and ``get_reward``.

    Raises:
        ValueError: It has no ``reset``.
    """
    if owner is None:
        return []
    names = [name for name, _ in inspect.getmembers(type(owner), inspect.isfunction)]
    if "reset" not in names:
        raise UserError(f"The environment {type(owner).__name__} has no method reset(**columns).")
    own = [n for n in names if not n.startswith("_") and n not in ("reset", "get_reward")]
    return [getattr(owner, name) for name in own]

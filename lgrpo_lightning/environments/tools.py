"""What answers tool calls: functions, and perhaps an object whose methods are tools, by TRL's conventions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.errors import UserError


class Tools:
    """Functions as TRL takes them (type-hinted, with a docstring of Google's style, sync or async), and an object's.

    Args:
        functions: Tools that belong to no object.
        factory: Makes an object whose public methods are tools; ``reset(**columns)`` begins an episode, and
            ``get_reward()``, where there is one, is its reward. None: there are only ``functions``.

    Raises:
        ValueError: Two tools have one name, or the object has no ``reset``.

    >>> def add(a: int, b: int) -> int:
    ...     \"\"\"Add two numbers.
    ...
    ...     Args:
    ...         a: The first.
    ...         b: The second.
    ...     \"\"\"
    ...     return a + b
    >>> Tools([add]).call(ToolCall(name="add", arguments={"a": 1, "b": 2}))
    '3'
    """

    def __init__(self, functions: Sequence[Callable[..., Any]] = (), factory: Callable[[], Any] | None = None) -> None:
        self.object = None if factory is None else factory()
        self.functions = (*functions, *_list_methods(self.object))
        self._by_name = {function.__name__: function for function in self.functions}
        if len(self._by_name) < len(self.functions):
            names = [f.__name__ for f in self.functions]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise UserError(f"Two tools are called {twice[0]!r}; each needs a name of its own.")

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew: the object's ``reset`` is given the data columns."""
        if self.object is None:
            return None
        observation = _finish(self.object.reset(**columns))
        return None if observation is None else str(observation)

    def call(self, call: ToolCall) -> str:
        """What a tool answers, as text.

        Raises:
            ToolError: The call cannot be made.
            Exception: What the tool raises.
        """
        if call.problem:
            raise ToolError(f"The call is malformed: {call.problem}.")
        if call.name not in self._by_name:
            raise ToolError(f"There is no tool {call.name!r}; there are {', '.join(self._by_name) or 'none'}.")
        function = self._by_name[call.name]
        try:
            inspect.signature(function).bind(**call.arguments)
        except TypeError as error:
            raise ToolError(f"{call.name}: {error}.") from None
        return convert_answer(_finish(function(**call.arguments)))

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        if not hasattr(self.object, "get_reward"):
            return None
        reward = _finish(self.object.get_reward())  # type: ignore[union-attr]
        return None if reward is None else float(reward)


def _list_methods(owner: Any) -> list[Callable[..., Any]]:
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


class ToolError(ValueError):
    """A call that cannot be made, for the model to read."""


def _finish(answer: Any) -> Any:
    """``answer``, or what it gives where it is awaitable, on an event loop of its own."""
    import asyncio

    async def wait() -> Any:
        return await answer

    return asyncio.run(wait()) if inspect.isawaitable(answer) else answer


def convert_answer(answer: Any) -> str:
    """What a tool returned as text: ``str`` of it, as TRL does, and bytes as UTF-8.

    Raises:
        ToolError: Bytes that are no text.

    >>> convert_answer({"a": 1}), convert_answer(b"ok"), convert_answer(None)
    ("{'a': 1}", 'ok', 'None')
    """
    if isinstance(answer, bytes | bytearray):
        try:
            return bytes(answer).decode()
        except UnicodeDecodeError as error:
            raise ToolError(f"The tool returned {len(answer)} bytes that are no text.") from error
    text = answer if isinstance(answer, str) else str(answer)
    return text.encode(errors="replace").decode()  # half of a surrogate pair is no text


def describe_error(error: BaseException) -> str:
    """``str`` of an error; of one that raises another then, that one's name.

    >>> describe_error(ValueError("too large"))
    'too large'
    """
    try:
        return str(error)
    except Exception as second:
        return f"({type(second).__name__} in its __str__)"


def check_described(functions: Iterable[Callable[..., Any]]) -> None:
    """Refuse tools that the chat template could not show to the model."""
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    for function in functions:
        try:
            get_json_schema(function)
        except (DocstringParsingException, TypeHintParsingException, ValueError) as error:
            raise UserError(
                f"The tool {function.__name__!r} cannot be described to the model: {error}. It needs type hints and a "
                "docstring with a description and an Args section that names every argument."
            ) from error

"""Python functions as tools: their description for the chat template, and calling them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.errors import UserError


class Toolbox:
    """Functions by name, as TRL takes them: type-hinted, with a docstring of Google's style, sync or async.

    Args:
        functions: The tools.

    Raises:
        ValueError: Two have one name.

    >>> def add(a: int, b: int) -> int:
    ...     \"\"\"Add two numbers.
    ...
    ...     Args:
    ...         a: The first.
    ...         b: The second.
    ...     \"\"\"
    ...     return a + b
    >>> box = Toolbox([add])
    >>> box.called(ToolCall(name="add", arguments={"a": 1, "b": 2}))
    '3'
    """

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        self.functions = {function.__name__: function for function in functions}
        if len(self.functions) < len(functions):
            names = [f.__name__ for f in functions]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise UserError(f"Two tools are called {twice[0]!r}; each needs a name of its own.")

    def called(self, call: ToolCall) -> str:
        """What a tool answers, as text.

        Raises:
            ToolError: The call cannot be made.
            Exception: What the tool raises.
        """
        if call.problem:
            raise ToolError(f"The call is malformed: {call.problem}.")
        if call.name not in self.functions:
            raise ToolError(
                f"There is no tool {call.name!r}; there are {', '.join(self.functions) or 'none'}."
            )
        function = self.functions[call.name]
        try:
            inspect.signature(function).bind(**call.arguments)
        except TypeError as error:
            raise ToolError(f"{call.name}: {error}.") from None
        answer = function(**call.arguments)
        return as_text(run(answer) if inspect.isawaitable(answer) else answer)


class ToolError(ValueError):
    """A call that cannot be made, for the model to read."""


def run(awaitable: Any) -> Any:
    """What an awaitable gives, on an event loop of its own."""
    import asyncio

    async def result() -> Any:
        return await awaitable

    return asyncio.run(result())


def as_text(answer: Any) -> str:
    """What a tool returned as text: ``str`` of it, as TRL does, and bytes as UTF-8.

    Raises:
        ToolError: Bytes that are no text.

    >>> as_text({"a": 1}), as_text(b"ok"), as_text(None)
    ("{'a': 1}", 'ok', 'None')
    """
    if isinstance(answer, bytes | bytearray):
        try:
            return bytes(answer).decode()
        except UnicodeDecodeError as error:
            raise ToolError(f"The tool returned {len(answer)} bytes that are no text.") from error
    text = answer if isinstance(answer, str) else str(answer)
    return text.encode(errors="replace").decode()  # half of a surrogate pair is no text


def error_text(error: BaseException) -> str:
    """``str`` of an error; of one that raises another then, that one's name.

    >>> error_text(ValueError("too large"))
    'too large'
    """
    try:
        return str(error)
    except Exception as second:
        return f"({type(second).__name__} in its __str__)"


def check_described(functions: Iterable[Callable[..., Any]]) -> None:
    """Refuse tools that the chat template could not show to the model.

    Raises:
        ValueError: Type hints or docstring are missing.
    """
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

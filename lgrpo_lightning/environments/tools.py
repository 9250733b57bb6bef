"""Tools by TRL's conventions: what they are, and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from lgrpo_lightning.errors import UserError


def list_methods(owner: Any) -> list[Callable[..., Any]]:
    """The public methods of an object but ``reset``, which it has to have, and ``get_reward``."""
    if owner is None:
        return []
    names = [name for name, _ in inspect.getmembers(type(owner), inspect.isfunction)]
    if "reset" not in names:
        raise UserError(f"The environment {type(owner).__name__} has no method reset(**columns).")
    own = [n for n in names if not n.startswith("_") and n not in ("reset", "get_reward")]
    return [getattr(owner, name) for name in own]


class ToolError(ValueError):
    """A call that cannot be made, for the model to read."""


def await_answer(answer: Any) -> Any:
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

"""Messages of a chat as data rows have them, made the same whatever file they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning.data.json_text import change_function, list_called, parse_arguments
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message


def check_messages(prompt: Any, where: str, *, images: Sequence[str] = ()) -> list[Message]:
    """The messages of a prompt: text as text, without the nulls that tables fill up with.

    Args:
        images: Types of parts that are images; a message with some keeps its parts.
    """
    if not isinstance(prompt, list | tuple):
        raise UserError(
            f"{where}: the prompt is {prompt!r}, of type {type(prompt).__name__}; it must be a string or a "
            "list of messages."
        )
    if not prompt:
        raise UserError(f"{where}: the prompt is empty.")
    return [_check(message, f"{where}: message {number}", images) for number, message in enumerate(prompt)]


def _check(message: Any, where: str, images: Sequence[str]) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UserError(
            f"{where} is {message!r}; a message is an object with a role and a "
            'content, such as {"role": "user", "content": "1+1?"}.'
        )
    plain: dict[str, Any] = dict(parse_arguments(drop_nulls(message), where))
    content = _join_text(plain.get("content"), where, images)
    if content is None and not plain.get("tool_calls"):
        raise UserError(
            f"{where} ({plain['role']}) has no content. Only an assistant's message with tool_calls goes without."
        )
    if plain["role"] == "user" and not (isinstance(content, list) or (content or "").strip()):
        raise UserError(f"{where} (user) is empty.")
    return {**plain, "content": content or ""}


def _join_text(content: Any, where: str, images: Sequence[str]) -> str | list[Any] | None:
    """The text of a message, or its parts if there are images among them."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, str | Mapping) for part in content):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        others = sorted({str(p.get("type")) for p in parts if _is_other(p, images)})
        if not others:
            return "".join(part["text"] for part in parts)
        if set(others) <= {*images}:
            # of a text nothing but itself: where tables fill up, it has an image that is empty
            return [p if _is_other(p, images) else {"type": "text", "text": p["text"]} for p in parts]
        possible = "parts of type text and image" if images else "parts of type text"
        raise UserError(f"{where} has a part of type {', '.join(others)}; only {possible} are possible.")
    raise UserError(f"{where}: the content is {content!r}, a {type(content).__name__}; it must be text.")


def _is_other(part: Mapping[str, Any], images: Sequence[str]) -> bool:
    """Whether a part is no text. Tables may give it one that is empty."""
    kind, text = part.get("type", "text"), part.get("text")
    return kind in images or not isinstance(text, str) or (not text and kind != "text")


def drop_nulls(value: Any) -> Any:
    """``value`` without entries that are null: Parquet and Arrow give every struct all fields of its column.

    >>> drop_nulls([{"name": "add", "arguments": {"a": 1, "city": None}}])
    [{'name': 'add', 'arguments': {'a': 1}}]
    """
    if isinstance(value, Mapping):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [drop_nulls(item) for item in value]
    return value


def render(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """Messages as the chat template writes them.

    Templates of DeepSeek join arguments of a tool call to other text, or show calls only where the content is null:
    the first form of the messages counts that shows all calls; else the first that the template takes.
    """
    parsed = [dict(parse_arguments(message, f"message {number}")) for number, message in enumerate(messages)]
    names = list_called(parsed)
    forms = [parsed]
    if names:
        as_text = [
            {**m, "tool_calls": [change_function(c, _write_arguments) for c in m["tool_calls"]]}
            if m.get("tool_calls")
            else m
            for m in parsed
        ]
        forms += [as_text, [m if m.get("content") else m | {"content": None} for m in as_text]]
    taken, refused = list[str](), list[Exception]()
    for form in forms:
        try:
            taken.append(str(tokenizer.apply_chat_template(form, tokenize=False, **options)))
        except Exception as error:
            refused.append(error)
        else:
            if all(name in taken[-1] for name in names):
                return taken[-1]
    if not taken:
        raise refused[0]
    return taken[0]


def use_parts(tokenizer: Any, messages: Sequence[Message], text: str, **options: Any) -> str:
    """``text``, as ``render`` gave it; but if it shows none of the messages, what a template makes of their parts.

    Templates of models with images may read parts alone.
    """
    said = [m["content"].strip() for m in messages if isinstance(m.get("content"), str) and m["content"].strip()]
    if not said or any(content in text for content in said):
        return text
    parts = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if isinstance(m.get("content"), str) else m
        for m in messages
    ]
    try:
        as_parts = render(tokenizer, parts, **options)
    except Exception:  # a template that changes the text reads no parts
        return text
    return as_parts if all(content in as_parts for content in said) else text


def open_turn(messages: Sequence[Message]) -> dict[str, bool]:
    """Arguments of the chat template that open a turn of the assistant, or go on with one that ``messages`` begin."""
    goes_on = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    return {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}


def _write_arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def check_text(row: Mapping[str, Any], where: str) -> None:
    """Refuse text that no file and no tokenizer takes: half of a surrogate pair."""
    for column, value in row.items():
        for text in _list_strings(value):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{where}: column {column!r} holds {text[error.start]!r} at character {error.start}, half of a "
                    "surrogate pair, which is no text. Remove it, or write the whole character."
                ) from error


def _list_strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [] if value.isascii() else [value]
    if isinstance(value, Mapping):
        return [text for item in (*value, *value.values()) for text in _list_strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _list_strings(item)]
    return []

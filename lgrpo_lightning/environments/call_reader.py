"""What finds the tool calls of a turn: a parser that reads back what the chat template writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lgrpo_lightning.environments.call_probes import TOOLS, written
from lgrpo_lightning.environments.call_types import named, typed
from lgrpo_lightning.environments.calls import FORMATS, REASONING, tool_calls
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.vllm_calls import vllm_parser
from lgrpo_lightning.errors import UserError

CallReader = Callable[[Sequence[int], Sequence[int], Sequence[Any]], list[ToolCall]]
"""(ids of a turn, ids before it, tools) → its calls, in order; one that is malformed has a ``problem``."""

TextReader = Callable[[str, str, Sequence[Any]], list[ToolCall]]
"""The same of texts, special tokens written out."""

PARSER = "transformers"
"""The format of a tokenizer with a response template of transformers."""

VLLM = "vllm:"
"""What the name of a parser of vLLM stands behind."""


def check_format(name: str, who: str) -> None:
    """Refuse a ``tool_format`` that does not exist.

    Raises:
        ValueError: It is unknown.
    """
    if name not in ("auto", PARSER, *FORMATS) and not name.startswith(VLLM):
        raise UserError(f"{who}: tool_format is {name!r}; possible are {possible()}.")


def possible() -> str:
    """What ``tool_format`` may be, for messages."""
    return f"auto, {PARSER} (a tokenizer's own response template), {', '.join(FORMATS)}, {VLLM}<tool parser of vLLM>"


def call_reader(format: str, template: TurnTemplate) -> CallReader:
    """The reader of a format; of "auto" the first that reads what the chat template writes.

    Raises:
        ValueError: What the template writes is read as something else. For "auto": no reader reads it, or the template
            writes no calls.
    """
    read = _chosen(format, template)
    return lambda ids, prefix, tools: read(template.text(ids), template.text(prefix), tools)


def _chosen(format: str, template: TurnTemplate) -> TextReader:
    tried = list(written(template))
    if format != "auto":
        reader = _reader(format, template)
        if wrong := _misread(reader, tried):
            raise UserError(f"tool_format is {format!r}, and {wrong}. Possible are {possible()}.")
        return reader
    if not tried:
        raise UserError(
            "tool_format is auto, and the chat template does not show how calls are written: it leaves out tool_calls. "
            f"Set tool_format to what the model was trained for: {possible()}."
        )
    own = [PARSER] if getattr(template.tokenizer, "response_template", None) else []
    for name in (*own, *FORMATS):
        reader = _reader(name, template)
        if not _misread(reader, tried):
            return reader
    raise UserError(
        f"tool_format is auto, and no format reads the calls that the chat template writes: {tried[0][2]!r}. Set "
        f"tool_format to a parser that does: {VLLM}<tool parser of vLLM>; or give the tokenizer a response_template "
        "(transformers' response parsing)."
    )


def _reader(name: str, template: TurnTemplate) -> TextReader:
    tokenizer = template.tokenizer
    if name == PARSER:
        return _of_transformers(tokenizer)
    if name.startswith(VLLM):
        find = vllm_parser(name.removeprefix(VLLM), tokenizer)
        return lambda text, prefix, tools: find(_said(template, text, prefix), tools)

    def read(text: str, prefix: str, tools: Sequence[Any]) -> list[ToolCall]:
        found = tool_calls(_said(template, text, prefix), name, named(tools))
        return [typed(call, tools) for call in found] if FORMATS[name].typed else found

    return read


def _of_transformers(tokenizer: Any) -> TextReader:
    """By the tokenizer's response template."""
    if getattr(tokenizer, "response_template", None) is None:
        raise UserError(f"tool_format is {PARSER!r}, and the tokenizer has no response_template.")

    def read(text: str, prefix: str, tools: Sequence[Any]) -> list[ToolCall]:
        try:
            found = tokenizer.parse_response(text, prefix=prefix, tools=list(tools)) or {}
        except (ValueError, TypeError, KeyError) as error:  # a malformed call
            return [ToolCall(problem=str(error))]
        return [ToolCall.of_message(call) for call in found.get("tool_calls") or ()]

    return read


def _said(template: TurnTemplate, text: str, prefix: str) -> str:
    """A turn without the tokens that end it; behind the mark of reasoning that the prompt has begun."""
    tokenizer = template.tokenizer
    ends = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(list(template.ends)) if token)
    while end := next((end for end in ends if text.endswith(end)), ""):
        text = text.removesuffix(end)
    special = set(tokenizer.all_special_tokens) - {*REASONING, *REASONING.values()}
    begun = prefix[max((prefix.rfind(t) + len(t) for t in special if t in prefix), default=0) :]
    return next((o for o, closed in REASONING.items() if begun.rfind(o) > begun.rfind(closed)), "") + text


def _misread(reader: TextReader, tried: Sequence[tuple[Sequence[ToolCall], str, str]]) -> str:
    """What a reader makes of what the template writes, where that is something else; empty where it is right."""
    for calls, prompt, turn in tried:
        found = reader(turn, prompt, TOOLS)
        if _plain(found) != _plain(calls):
            return f"the chat template writes calls as {turn!r}, which it reads as {_plain(found)}"
    return ""


def _plain(calls: Sequence[ToolCall]) -> str:
    return json.dumps([c.problem or [c.name, dict(c.arguments)] for c in calls], sort_keys=True, default=str)

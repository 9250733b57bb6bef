"""What finds the tool calls of a turn: a parser that reads back what the chat template writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call import ToolCall, convert_arguments, describe_tools, list_names
from lgrpo_lightning.environments.tool_call_formats import FORMATS, REASONING, find_tool_calls, skip_reasoning
from lgrpo_lightning.environments.tool_call_probes import TOOLS, write_probes
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
    """Refuse a ``tool_format`` that does not exist."""
    if name not in ("auto", PARSER, *FORMATS) and not name.startswith(VLLM):
        raise UserError(f"{who}: tool_format is {name!r}; possible are {list_formats()}.")


def list_formats() -> str:
    """What ``tool_format`` may be, for messages."""
    return f"auto, {PARSER} (a tokenizer's own response template), {', '.join(FORMATS)}, {VLLM}<tool parser of vLLM>"


def make_call_reader(format: str, template: TurnTemplate) -> CallReader:
    """The reader of a format; of "auto" the first that reads what the chat template writes.

    Raises:
        ValueError: What the template writes is read as something else. For "auto": no reader reads it, or the template
            writes no calls.
    """
    read = _choose(format, template)
    return lambda ids, prefix, tools: read(template.decode(ids), template.decode(prefix), tools)


def _choose(format: str, template: TurnTemplate) -> TextReader:
    tried = list(write_probes(template))
    if format != "auto":
        reader = _make_reader(format, template)
        if wrong := _explain_misreading(reader, tried):
            raise UserError(f"tool_format is {format!r}, and {wrong}. Possible are {list_formats()}.")
        return reader
    if not tried:
        raise UserError(
            "tool_format is auto, and the chat template does not show how calls are written: it leaves out tool_calls. "
            f"Set tool_format to what the model was trained for: {list_formats()}."
        )
    own = [PARSER] if getattr(template.tokenizer, "response_template", None) else []
    for name in (*own, *FORMATS):
        reader = _make_reader(name, template)
        if not _explain_misreading(reader, tried):
            return reader
    raise UserError(
        f"tool_format is auto, and no format reads the calls that the chat template writes: {tried[0][2]!r}. Set "
        f"tool_format to a parser that does: {VLLM}<tool parser of vLLM>; or give the tokenizer a response_template "
        "(transformers' response parsing)."
    )


def _make_reader(name: str, template: TurnTemplate) -> TextReader:
    tokenizer = template.tokenizer
    if name == PARSER:
        return _make_transformers_reader(tokenizer)
    if name.startswith(VLLM):
        find = make_vllm_reader(name.removeprefix(VLLM), tokenizer)
        return lambda text, prefix, tools: find(_strip_turn(template, text, prefix), tools)

    def read(text: str, prefix: str, tools: Sequence[Any]) -> list[ToolCall]:
        calls = find_tool_calls(_strip_turn(template, text, prefix), name, list_names(tools))
        return [convert_arguments(call, tools) for call in calls] if FORMATS[name].typed else calls

    return read


def _make_transformers_reader(tokenizer: Any) -> TextReader:
    """By the tokenizer's response template."""
    if getattr(tokenizer, "response_template", None) is None:
        raise UserError(f"tool_format is {PARSER!r}, and the tokenizer has no response_template.")

    def read(text: str, prefix: str, tools: Sequence[Any]) -> list[ToolCall]:
        try:
            response = tokenizer.parse_response(text, prefix=prefix, tools=list(tools)) or {}
        except (ValueError, TypeError, KeyError) as error:  # a malformed call
            return [ToolCall(problem=str(error))]
        return [ToolCall.from_message(call) for call in response.get("tool_calls") or ()]

    return read


def _strip_turn(template: TurnTemplate, text: str, prefix: str) -> str:
    """A turn without the tokens that end it; behind the mark of reasoning that the prompt has begun."""
    tokenizer = template.tokenizer
    ends = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(list(template.ends)) if token)
    while end := next((end for end in ends if text.endswith(end)), ""):
        text = text.removesuffix(end)
    special = set(tokenizer.all_special_tokens) - {*REASONING, *REASONING.values()}
    begun = prefix[max((prefix.rfind(t) + len(t) for t in special if t in prefix), default=0) :]
    return next((o for o, closed in REASONING.items() if begun.rfind(o) > begun.rfind(closed)), "") + text


def _explain_misreading(reader: TextReader, tried: Sequence[tuple[Sequence[ToolCall], str, str]]) -> str:
    """What a reader makes of what the template writes, where that is something else; empty where it is right."""
    for calls, prompt, turn in tried:
        read = reader(turn, prompt, TOOLS)
        if _dump(read) != _dump(calls):
            return f"the chat template writes calls as {turn!r}, which it reads as {_dump(read)}"
    return ""


def _dump(calls: Sequence[ToolCall]) -> str:
    return json.dumps([c.problem or [c.name, dict(c.arguments)] for c in calls], sort_keys=True, default=str)


def make_vllm_reader(name: str, tokenizer: Any) -> Callable[[str, Sequence[Any]], list[ToolCall]]:
    """(text of a turn, tools) → calls, as vLLM's server finds them. No engine is needed."""
    try:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.tool_parsers import ToolParserManager
    except ImportError as error:
        raise UserError(
            f"tool_format 'vllm:{name}' is a parser of vLLM, which cannot be imported: {error}. Install "
            "lgrpo_lightning[vllm], or take another tool_format."
        ) from error
    if name not in ToolParserManager.list_registered():
        there = ", ".join(ToolParserManager.list_registered())
        raise UserError(f"tool_format: vLLM has no tool parser {name!r}; there are {there}.")
    kind = ToolParserManager.get_tool_parser(name)

    def read(text: str, tools: Sequence[Any]) -> list[ToolCall]:
        asked = [{"role": "user", "content": ""}]
        try:
            request = ChatCompletionRequest(messages=asked, tools=describe_tools(tools) or None)
            extracted = kind(tokenizer, request.tools).extract_tool_calls(text[skip_reasoning(text) :], request)
            return [ToolCall.from_parts(call.function.name, call.function.arguments) for call in extracted.tool_calls]
        except Exception as error:  # a turn of the policy may be anything
            return [ToolCall(problem=f"{type(error).__name__}: {error}")]

    if refused := [call for call in read("", ()) if call.problem]:
        raise UserError(
            f"tool_format: vLLM's tool parser {name!r} does not go with this tokenizer, or not with whole turns: "
            f"{refused[0].problem}"
        )
    return read

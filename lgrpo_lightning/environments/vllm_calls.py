"""vLLM's parsers of tool calls, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lgrpo_lightning.environments.call_types import described
from lgrpo_lightning.environments.calls import reasoned
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.errors import UserError


def vllm_parser(name: str, tokenizer: Any) -> Callable[[str, Sequence[Any]], list[ToolCall]]:
    """(text of a turn, tools) → calls, as vLLM's server finds them. No engine is needed.

    Raises:
        ValueError: vLLM is not installed, or has no parser of that name, or none for this tokenizer.
    """
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
        request = ChatCompletionRequest(messages=asked, tools=described(tools) or None)
        found = kind(tokenizer, request.tools).extract_tool_calls(text[reasoned(text) :], request)
        return [ToolCall.of(call.function.name, call.function.arguments) for call in found.tool_calls]

    try:
        read("", ())
    except Exception as error:
        raise UserError(
            f"tool_format: vLLM's tool parser {name!r} does not go with this tokenizer, or not with whole turns: "
            f"{type(error).__name__}: {error}"
        ) from error

    def guarded(text: str, tools: Sequence[Any]) -> list[ToolCall]:
        try:
            return read(text, tools)
        except Exception as error:  # a turn of the policy may be anything
            return [ToolCall(problem=f"{type(error).__name__}: {error}")]

    return guarded

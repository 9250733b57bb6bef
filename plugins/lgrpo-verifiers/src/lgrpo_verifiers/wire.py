"""What passes between verifiers and the policy, in the form of OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.plain import to_json

TOO_LONG = "context_length_exceeded"
"""What an answer's error has as ``code`` where the conversation may not go on: the run ends with what was said."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call of the policy is answered with."""

    status: int
    body: Mapping[str, Any]

    @classmethod
    def refused(cls, why: str, *, code: str = "invalid_request", status: int = 400) -> Answer:
        """An error, for the harness."""
        return cls(status=status, body={"error": {"message": why, "type": "invalid_request_error", "code": code}})

    @classmethod
    def full(cls, why: str) -> Answer:
        """The episode may not go on; the words are those by which harnesses know that."""
        return cls.refused(f"{TOO_LONG}: maximum context length reached: {why}", code=TOO_LONG)

    @property
    def events(self) -> bytes:
        """The completion as server-sent events: all of it at once."""
        choice = self.body["choices"][0]
        calls = choice["message"].get("tool_calls") or []
        delta = {**choice["message"], "tool_calls": [{**c, "index": i} for i, c in enumerate(calls)]}
        if not calls:
            del delta["tool_calls"]
        head = {**self.body, "object": "chat.completion.chunk", "usage": None}
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
            {**head, "choices": [], "usage": self.body["usage"]},
        ]
        lines = [f"data: {json.dumps(c)}\n\n" for c in chunks]
        return "".join([*lines, "data: [DONE]\n\n"]).encode()


def completion(message: Mapping[str, Any], *, model: str, name: str, cut: bool, prompt: int, sampled: int) -> Answer:
    """A turn as a chat completion.

    Args:
        name: Of the completion, unique in the run.
        cut: Whether the turn was cut off.
        prompt, sampled: Numbers of tokens before and in the turn.
    """
    reason = "length" if cut else "tool_calls" if message.get("tool_calls") else "stop"
    usage = {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}
    choice = {"index": 0, "message": dict(message), "finish_reason": reason, "logprobs": None}
    body = {"id": name, "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
    return Answer(status=200, body=body)


def with_calls(message: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """An assistant's message as OpenAI has it. The text stays whole; malformed calls are text only."""
    plain = {"role": "assistant", "content": str(message["content"])}
    found = [call["function"] for call in message.get("tool_calls") or () if not call.get("problem")]
    calls = [
        {
            "id": f"{name}-{number}",
            "type": "function",
            "function": {"name": called["name"], "arguments": to_json(called["arguments"])},
        }
        for number, called in enumerate(found)
    ]
    return {**plain, "tool_calls": calls} if calls else plain


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with what matters alone: role, text, tool calls and what names a tool's answer."""
    return [_plain(message) for message in messages]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": str(message["role"]), "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        plain["tool_calls"] = [_call(c) for c in message["tool_calls"]]
    return plain | {k: message[k] for k in ("tool_call_id", "name") if message.get(k)}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    plain = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"id": call.get("id"), "type": "function", "function": plain}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    kinds = {str(part.get("type")) for part in content} - {"text"}
    if kinds:
        raise UserError(f"a message holds {', '.join(sorted(kinds))}; only text can be shown to the policy")
    return "\n".join(str(part["text"]) for part in content)

"""A chat loop with tools as a harness of verifiers: ``null`` of verifiers, without a process for each episode."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
from verifiers.v1 import Harness, HarnessConfig, ProgramResult
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.compaction import bound_tool_message
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

from lgrpo_verifiers.wire import TOO_LONG

DONE = ProgramResult(exit_code=0, stdout="", stderr="")


class ChatHarnessConfig(HarnessConfig):
    """verifiers' own options of a harness."""


class ChatHarness(Harness[ChatHarnessConfig]):
    """Asks the model, makes its tool calls, and asks again, until a turn has none.

    It does what verifiers' ``null`` harness does, on the event loop of the run: nothing is installed and no process is
    started. A conversation that is full ends with what was said.
    """

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(  # type: ignore[override]
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
        **_: Any,
    ) -> ProgramResult:
        """One segment: from the task's prompt, or the conversation so far, to a turn without a tool call."""
        messages = self._opening(data)
        spec = {name: {"url": url, "timeout": self.config.tool_timeout} for name, url in mcp_urls.items()}
        async with AsyncExitStack() as stack:
            tools, dispatch, servers = await connect_mcp({"mcpServers": spec}, stack)
            # of this machine, without a proxy or certificates
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=None, trust_env=False, verify=False))
            while True:
                body = {"model": ctx.model, "messages": messages, **({"tools": tools} if tools else {})}
                answer = await client.post(
                    f"{endpoint}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}
                )
                if answer.is_error:
                    return _ended(answer, trace)
                message = answer.json()["choices"][0]["message"]
                messages.append(message)
                if not message.get("tool_calls"):
                    return DONE
                for call in message["tool_calls"]:
                    messages.append(await _called(call, dispatch, servers))

    def _opening(self, data: Any) -> list[dict[str, Any]]:
        system, prompt = self.resolve_prompt(data)
        said = (
            [{"role": "user", "content": prompt}]
            if isinstance(prompt, str)
            else [message_to_wire(m) for m in prompt or []]
        )
        return [*([{"role": "system", "content": system}] if system else []), *said]


def _ended(answer: httpx.Response, trace: Any) -> ProgramResult:
    """The end of an episode that a limit has ended.

    Raises:
        RuntimeError: The model could not answer.
    """
    if trace.stop_condition is None and TOO_LONG not in answer.text:
        raise RuntimeError(f"the model did not answer: {answer.status_code} {answer.text[:500]}")
    return DONE


async def _called(call: dict[str, Any], dispatch: dict[str, Any], servers: dict[str, Any]) -> dict[str, Any]:
    """What a tool answers, as a message; errors are for the model to read."""
    name = call["function"]["name"]
    try:
        arguments = json.loads(call["function"]["arguments"] or "{}")
        known = name in dispatch
        content = await call_mcp(servers, dispatch, name, arguments) if known else f"error: unknown tool {name!r}"
    except json.JSONDecodeError as error:
        content = f"error: invalid JSON in tool arguments ({error}); resend the call with valid JSON"
    message = {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}
    return dict(bound_tool_message(message))

"""Responses of models in five formats of tool calls, with the calls in them; None is a malformed one."""

from __future__ import annotations

from typing import Any

Call = tuple[str, dict[str, Any]] | None
ADD: Call = ("add", {"a": 1, "b": 2})
NOW: Call = ("now", {})
CITY: Call = ("weather", {"city": "Zürich", "days": [1, 2], "metric": True, "at": None})
J_ADD = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
J_NOW = '{"name": "now", "arguments": {}}'
J_CITY = '{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "metric": true, "at": null}}'

RESPONSES: list[tuple[str, str, list[Call]]] = [
    # Hermes and Qwen
    ("hermes", f"<tool_call>\n{J_ADD}\n</tool_call>", [ADD]),
    ("hermes", f"Let me see.\n<tool_call>\n{J_ADD}\n</tool_call>", [ADD]),
    ("hermes", f"<tool_call>{J_ADD}</tool_call><tool_call>{J_NOW}</tool_call>", [ADD, NOW]),
    ("hermes", f"<tool_call>\n{J_CITY}\n</tool_call>", [CITY]),
    ("hermes", f"<think>I add.</think>\n\n<tool_call>\n{J_ADD}\n</tool_call>", [ADD]),
    ("hermes", f"<tool_call>\n{J_NOW}\n</tool_call>\n<tool_call>\n{J_CITY}\n</tool_call>", [NOW, CITY]),
    ("hermes", "It is 3.", []),
    ("hermes", "", []),
    ("hermes", f"<tool_call>{J_ADD}", [None]),
    ("hermes", "<tool_call></tool_call>", [None]),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1</tool_call>', [None]),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>', [None]),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>', [None]),
    ("hermes", f"<tool_call>add(1, 2)</tool_call><tool_call>{J_ADD}</tool_call>", [None, ADD]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>', [ADD]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "a lot"}</tool_call>', [None]),
    # Llama 3
    ("llama3", '{"name": "add", "parameters": {"a": 1, "b": 2}}', [ADD]),
    ("llama3", '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}<|eom_id|>', [ADD]),
    (
        "llama3",
        '{"name": "now", "parameters": {}}; {"name": "add", "parameters": {"a": 1, "b": 2}}',
        [NOW, ADD],
    ),
    ("llama3", '  {"name": "now", "parameters": {}}<|eot_id|>', [NOW]),
    ("llama3", '{"type": "function", "name": "now", "parameters": {}}', [NOW]),
    ("llama3", J_ADD, [ADD]),
    ("llama3", "The sum is 3.", []),
    ("llama3", 'I would call {"name": "now"}', []),
    ("llama3", '<|python_tag|>print("hello")', [None]),
    ("llama3", '{"name": "add", "parameters": {"a": 1, "b": 2}', [None]),
    ("llama3", '{"name": "add", "parameters": 7}', [None]),
    ("llama3", '{"a": 1}', [None]),
    # Mistral
    ("mistral", f"[TOOL_CALLS][{J_ADD}]", [ADD]),
    ("mistral", f"[TOOL_CALLS] [{J_ADD}, {J_NOW}]</s>", [ADD, NOW]),
    ("mistral", f"I look it up.[TOOL_CALLS][{J_CITY}]", [CITY]),
    ("mistral", f"[TOOL_CALLS]{J_NOW}", [NOW]),
    ("mistral", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}, "id": "abc123def"}]', [ADD]),
    ("mistral", "It is 3.", []),
    ("mistral", f"[{J_ADD}]", []),
    ("mistral", "[TOOL_CALLS]", [None]),
    ("mistral", "[TOOL_CALLS][add]", [None]),
    ("mistral", "[TOOL_CALLS][1, 2]", [None, None]),
    ("mistral", f"[TOOL_CALLS][{J_ADD}", [None]),
    # plain JSON
    ("json", J_ADD, [ADD]),
    ("json", f"[{J_ADD}, {J_NOW}]", [ADD, NOW]),
    ("json", f"```json\n{J_CITY}\n```", [CITY]),
    ("json", f"First\n```json\n{J_ADD}\n```\nand then\n```json\n{J_NOW}\n```", [ADD, NOW]),
    ("json", f"{J_ADD}\n{J_NOW}", [ADD, NOW]),
    ("json", '{"function": {"name": "now", "arguments": {}}, "type": "function"}', [NOW]),
    ("json", '{"name": "now"}', [NOW]),
    ("json", "The answer is 3.", []),
    ("json", f"I call {J_ADD}", []),
    ("json", "```python\nprint(1)\n```", []),
    ("json", '{"name": "add", "arguments": {"a": 1,}}', [None]),
    ("json", "{}", [None]),
    ("json", "[]", []),
    ("json", "```json\n```", [None]),
    # Python's syntax
    ("pythonic", "[add(a=1, b=2)]", [ADD]),
    ("pythonic", "[add(a=1, b=2), now()]", [ADD, NOW]),
    ("pythonic", '[weather(city="Zürich", days=[1, 2], metric=True, at=None)]', [CITY]),
    ("pythonic", "<|python_start|>[now()]<|python_end|>", [NOW]),
    ("pythonic", "```tool_code\nadd(a=1, b=2)\n```", [ADD]),
    ("pythonic", "It is [3].", []),
    ("pythonic", "[1, 2, 3]", []),
    ("pythonic", "[add(1, 2)]", [None]),
    ("pythonic", "[add(a=b)]", [None]),
    ("pythonic", "[add(a=1, b=2), 7]", [ADD, None]),
    ("pythonic", "[add(a=1, b=2]", [None]),
    ("pythonic", "[add(a=__import__('os').system('true'))]", [None]),
    ("pythonic", "[add(**{'a': 1})]", [None]),
]

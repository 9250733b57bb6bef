"""Responses of models by formats of tool calls, with the calls in them; None is a malformed one."""

from __future__ import annotations

from typing import Any

Call = tuple[str, dict[str, Any]] | None
ADD: Call = ("add", {"a": 1, "b": 2})
NOW: Call = ("now", {})
CITY: Call = ("weather", {"city": "Zürich", "days": [1, 2], "metric": True, "at": None})
J_ADD = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
J_NOW = '{"name": "now", "arguments": {}}'
J_CITY = '{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "metric": true, "at": null}}'
SAY: Call = ("say", {"t": "a </tool_call> b"})
LINES: Call = ("say", {"t": "a\nb"})
HARMONY = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": 2}'
NAMES = ("add", "now", "weather", "say")
"""The tools there are."""


def xml(name: str, **arguments: Any) -> str:
    values = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>"


def glm(name: str, **arguments: Any) -> str:
    values = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items())
    return f"<tool_call>{name}\n{values}</tool_call>"


def invoke(name: str, **arguments: Any) -> str:
    values = "".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in arguments.items())
    return f'<minimax:tool_call>\n<invoke name="{name}">\n{values}</invoke>\n</minimax:tool_call>'


def deepseek(*calls: str) -> str:
    inner = "\n".join(f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


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
    ("llama3", '{"a": 1}', []),
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
    ("json", "{}", []),
    ("json", "[]", []),
    ("json", "```json\n```", []),
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
    # reasoning is not read
    ("hermes", f"<think>I could say <tool_call>\n{J_ADD}\n</tool_call>.</think>\nIt is 3.", []),
    ("hermes", f"<think><tool_call>{J_ADD}</tool_call></think>\n<tool_call>\n{J_ADD}\n</tool_call>", [ADD]),
    ("hermes", "<think>There is <tool_call>, which I need not.</think>It is 3.", []),
    ("hermes", f"<think>Never ended <tool_call>{J_ADD}</tool_call>", []),
    ("hermes", f"First.<think>{J_NOW}<tool_call></think><tool_call>{J_NOW}</tool_call>", [NOW]),
    ("mistral", f"[THINK][TOOL_CALLS][{J_NOW}][/THINK]It is 3.", []),
    ("json", f"<think>{J_ADD}</think>\n{J_NOW}", [NOW]),
    ("pythonic", "<think>[now()]</think>It is 3.", []),
    ("gemma4", "<|channel>thought\n<|tool_call>call:now{}<tool_call|><channel|>It is 3.", []),
    (
        "harmony",
        "<|channel|>analysis<|message|>to=functions.now<|message|>{}<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It is 3.",
        [],
    ),
    # answers that only look like calls
    ("json", '{"answer": 3}', []),
    ("json", "[1, 2]", []),
    ("json", '{"name": "Bob", "age": 3}', []),
    ("json", '```json\n{"answer": 3}\n```', []),
    ("json", '{"answer": 3', []),
    ("llama3", '{"answer": 3}', []),
    ("llama3", "[1, 2]", []),
    ("pythonic", "[sin(x)]", []),
    ("pythonic", "[f(x) for x in y]", []),
    ("pythonic", "[3, 4]", []),
    ("harmony", "<|channel|>final<|message|>I wrote to=functions.now and it is 3.", []),
    # calls of tools that do not exist are calls: they are answered with those that do
    ("json", '{"name": "divide", "parameters": {"a": 1}}', [("divide", {"a": 1})]),
    ("json", '{"arguments": {"a": 1}, "name": "divide"}', [("divide", {"a": 1})]),
    ("pythonic", "[divide(a=1)]", [("divide", {"a": 1})]),
    # what strings may hold
    ("hermes", '<tool_call>{"name": "say", "arguments": {"t": "a </tool_call> b"}}</tool_call>', [SAY]),
    ("hermes", '<tool_call>{"name": "say", "arguments": {"t": "a\nb"}}</tool_call>', [LINES]),
    (
        "hermes",
        '<tool_call>{"name": "say", "arguments": {"t": "<think>"}}</tool_call>',
        [("say", {"t": "<think>"})],
    ),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', [NOW]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', [NOW]),
    ("llama3", '{"name": "say", "parameters": {"t": "a\nb"}}', [LINES]),
    ("mistral", '[TOOL_CALLS][{"name": "now", "arguments": null}]', [NOW]),
    ("pythonic", "[say(t='a\nb')]", [LINES]),
    ("pythonic", '<|tool_call_start|>[say(t="a </tool_call> b")]<|tool_call_end|>', [SAY]),
    (
        "pythonic",
        '<|tool_call_start|>[say(t="<|tool_call_end|>")]<|tool_call_end|>',
        [("say", {"t": "<|tool_call_end|>"})],
    ),
    ("pythonic", '[weather(city="Zürich", days=[1, 2], metric=true, at=null)]', [CITY]),
    ("pythonic", "<function_calls>\nadd(a=1, b=2)\nnow()\n</function_calls>", [ADD, NOW]),
    # Qwen 3.5, Nemotron 3
    ("qwen3_coder", xml("add", a=1, b=2), [("add", {"a": "1", "b": "2"})]),
    ("qwen3_coder", f"Well.\n{xml('now')}\n{xml('say', t='a </tool_call> b')}", [NOW, SAY]),
    ("qwen3_coder", xml("say", t="a\nb"), [LINES]),
    ("qwen3_coder", xml("say", t="</parameter> \n"), [("say", {"t": "</parameter> \n"})]),
    ("qwen3_coder", "It is 3.", []),
    ("qwen3_coder", "<tool_call>\n<function=add>\n<parameter=a>\n1\n</function>\n</tool_call>", [None]),
    ("qwen3_coder", f"<tool_call>\n{J_ADD}\n</tool_call>", [None]),
    ("qwen3_coder", f"<think>{xml('now')}</think>It is 3.", []),
    # GLM
    ("glm", glm("add", a=1, b=2), [("add", {"a": "1", "b": "2"})]),
    ("glm", f"{glm('now')}\n{glm('say', t='a </tool_call> b')}", [NOW, SAY]),
    ("glm", glm("say", t="a\nb"), [LINES]),
    ("glm", "<tool_call>add\n<arg_key>a</arg_key>\n</tool_call>", [None]),
    ("glm", "It is 3.", []),
    # MiniMax, Muse
    ("invoke", invoke("add", a=1, b=2), [("add", {"a": "1", "b": "2"})]),
    ("invoke", invoke("say", t="a </tool_call> b"), [SAY]),
    (
        "invoke",
        '<atem:function_calls>\n<atem:invoke name="now">\n</atem:invoke>\n</atem:function_calls>',
        [NOW],
    ),
    ("invoke", "<function_calls>now()</function_calls>", [None]),
    ("invoke", "It is 3.", []),
    # GPT-OSS
    ("harmony", f"<|channel|>analysis<|message|>I add.<|end|><|start|>assistant{HARMONY}<|call|>", [ADD]),
    ("harmony", HARMONY, [ADD]),
    ("harmony", ' to=functions.add<|channel|>commentary json<|message|>{"a": 1, "b": 2}<|call|>', [ADD]),
    ("harmony", "<|channel|>commentary to=functions.now <|constrain|>json<|message|><|call|>", [NOW]),
    ("harmony", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{no<|call|>", [None]),
    ("harmony", "<|channel|>final<|message|>It is 3.", []),
    # Gemma 4
    ("gemma4", "<|tool_call>call:add{a:1,b:2}<tool_call|>", [ADD]),
    (
        "gemma4",
        '<|tool_call>call:now{}<tool_call|><|tool_call>call:weather{city:<|"|>Zürich<|"|>,days:[1,2],'
        "metric:true,at:None}<tool_call|>",
        [NOW, CITY],
    ),
    ("gemma4", '<|tool_call>call:say{t:<|"|>a\nb<|"|>}<tool_call|>', [LINES]),
    (
        "gemma4",
        '<|tool_call>call:say{t:<|"|>{a:1, "b":None}<|"|>}<tool_call|>',
        [("say", {"t": '{a:1, "b":None}'})],
    ),
    ("gemma4", "<|tool_call>add(1)<tool_call|>", [None]),
    ("gemma4", "It is 3.", []),
    # DeepSeek
    ("deepseek", deepseek('function<｜tool▁sep｜>add\n```json\n{"a": 1, "b": 2}\n```'), [ADD]),
    ("deepseek", deepseek('add<｜tool▁sep｜>{"a": 1, "b": 2}', "now<｜tool▁sep｜>{}"), [ADD, NOW]),
    ("deepseek", deepseek('say<｜tool▁sep｜>{"t": "a\nb"}'), [LINES]),
    ("deepseek", deepseek("add"), [None]),
    ("deepseek", "It is 3.", []),
    # Mistral since its 11th tokenizer
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]now[CALL_ID]abc123def[ARGS]{}', [ADD, NOW]),
    ("mistral", "[TOOL_CALLS]add[ARGS]{no", [None]),
]

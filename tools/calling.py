"""How the arithmetic model calls a calculator: its chat template, and worked examples of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEMPLATE = """\
{%- for t in tools or [] %}{{ t.function.name }}({{ t.function.parameters.properties | join(', ') }})
{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- m.content }}
{%- if m.tool_calls %}[
{%- for c in m.tool_calls %}
{{- ', ' if not loop.first }}{{ c.function.name + '(' }}
{%- for k, v in c.function.arguments.items() %}{{ ', ' if not loop.first }}{{ k }}={{ v | tojson }}{% endfor %}
{{- ')' }}
{%- endfor %}]
{%- endif %}{{ eos_token }}
{%- elif m.role == 'tool' %}
{{- m.content + '\\n' }}
{%- else %}
{{- m.content }}
{%- endif %}
{%- endfor %}"""
"""Short, as every character is a token: the tools' names and arguments, one a line; then what was said.

Calls are of the format ``pythonic``; a turn of the assistant ends with the end of sequence, a tool's answer with a
new line.
"""

TOOLS = "calculate(expression)\n"
"""What the template shows of ``lgrpo_lightning.environments.calculator.calculate``."""


def called(terms: Sequence[int]) -> tuple[str, str, str]:
    """The turns of a sum that the calculator works out: the call, the tool's answer, the answer made of it.

    >>> called([12, 7, 30])
    ('[calculate(expression="12+7+30")]', '49\\n', '=49\\n')
    """
    value = sum(terms)
    return f'[calculate(expression="{"+".join(map(str, terms))}")]', f"{value}\n", f"={value}\n"


def example(tokenizer: Any, terms: Sequence[int]) -> tuple[list[int], list[int]]:
    """Token ids and labels of ``called``, what the tool says not trained."""
    ids: list[int] = []
    labels: list[int] = []
    for text, own in zip(called(terms), (True, False, True), strict=True):
        turn = [*tokenizer.encode(text), *([tokenizer.eos_token_id] if own else [])]
        ids += turn
        labels += turn if own else [-100] * len(turn)
    return ids, labels

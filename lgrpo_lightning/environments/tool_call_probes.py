"""How a chat template writes tool calls, tried with known ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lgrpo_lightning.environments.template import TemplateError, TurnTemplate
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.functional.common_prefix import count_common

PROBES: tuple[tuple[ToolCall, ...], ...] = (
    (
        ToolCall(
            name="probe_weather",
            arguments={
                "city": "Zürich, 12", "code": "75001", "days": 3, "share": -0.5, "metric": True,
                "near": {"names": ["a b", "c"], "lat": 47.4}, "hours": [6, 18],
            },
        ),
    ),
    (ToolCall(name="probe_now"), ToolCall(name="probe_weather", arguments={"city": "Bern"})),
)  # fmt: skip
"""Calls that are written by the template and read again: texts, numbers, nested objects; two, one without arguments."""

SCHEMAS: dict[str, dict[str, object]] = {
    "city": {"type": "string"}, "code": {"type": "string"}, "days": {"type": "integer"}, "share": {"type": "number"},
    "metric": {"type": "boolean"}, "hours": {"type": "array", "items": {"type": "integer"}},
    "near": {"type": "object", "properties": {
        "names": {"type": "array", "items": {"type": "string"}}, "lat": {"type": "number"},
    }},
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A probe.", "parameters": parameters}}
    for name, parameters in (
        ("probe_now", {"type": "object", "properties": {}}),
        ("probe_weather", {"type": "object", "properties": SCHEMAS}),
    )
]


def write_probes(
    template: TurnTemplate, probes: Sequence[Sequence[ToolCall]] = PROBES
) -> Iterator[tuple[Sequence[ToolCall], str, str]]:
    """(calls, prompt, turn) of the probes that the template writes."""
    for calls in probes:
        texts = _write_turn(template, calls)
        if texts and all(call.name in texts[1] for call in calls):
            yield calls, *texts


def _write_turn(template: TurnTemplate, calls: Sequence[ToolCall]) -> tuple[str, str] | None:
    """(prompt, turn) as the template writes them; None where it refuses the message."""
    user = {"role": "user", "content": "Hello."}
    named = [{**call.message, "id": f"probe000{n}"} for n, call in enumerate(calls)]
    message = {"role": "assistant", "content": "", "tool_calls": named}
    try:
        closed = template.render([user])
        asked = template.render([user], add_generation_prompt=True)
        whole = template.render([user, message])
    except TemplateError:
        return None
    if whole.startswith(asked):
        return asked, whole[len(asked) :].rstrip()
    start = count_common(closed, whole)  # a turn is begun otherwise than it is written later
    header = count_common(asked[start:], whole[start:])
    start += len(re.sub(r"<[^<>]*\Z", "", whole[start:][:header]))
    return whole[:start], whole[start:].rstrip()

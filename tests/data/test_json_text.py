"""Tool calls of a message."""

from typing import Any

import pytest

from lgrpo_lightning.data.guessing import GuessingTask
from lgrpo_lightning.data.json_text import list_called, parse_arguments

CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def message(calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_arguments_become_objects() -> None:
    found = parse_arguments(message([CALL, CALL]), "here")
    assert [call["function"]["arguments"] for call in found["tool_calls"]] == [{"a": 1}] * 2
    assert list_called([found, {"role": "user", "content": "x"}]) == ["add", "add"]


@pytest.mark.parametrize("calls", [[CALL, 3], [3], 3, {"a": 1}])
def test_calls_are_objects(calls: Any) -> None:
    with pytest.raises(ValueError, match=r"here: tool_calls is .*; it must be a list of objects"):
        parse_arguments(message(calls), "here")


@pytest.mark.parametrize("options", [{"count": 0}, {"lowest": 3, "highest": 2}])
def test_a_game_without_numbers_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="there is no number to draw"):
        GuessingTask(**options)
    assert {row["number"] for row in GuessingTask(count=1, lowest=2, highest=2).rows()} == {2}

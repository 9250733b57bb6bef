"""What a reward function is told about the run: the same wherever completions are scored."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import VALIDATED, lgrpo

TOLD: list[tuple[int, int, float]] = []
FUNCTION = json.dumps({"class_path": "RewardFunction", "init_args": {"function": f"{__name__}.told"}})
RUN = {
    "trainer__max_steps": 7,
    "trainer__val_check_interval": 1,
    **VALIDATED,
    "model__updates__iterations": 2,
    "model__reward_model": FUNCTION,
    "model__validation__k": 0,
    "data__train__init_args__count": 4,
    "data__validation__init_args__count": 2,
}
"""Three rollouts of two optimizer steps over two epochs, with a validation after each; one more step would fit."""


def told(completions: list[Any], trainer_state: Any, **columns: Any) -> list[float]:
    """A reward that notes (steps, most steps, epoch)."""
    TOLD.append((trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch))
    return [float(len(c) % 2) for c in completions]


def noted(command: str, root: Path, **changes: Any) -> list[tuple[int, int, float]]:
    TOLD.clear()
    assert lgrpo(command, root, **RUN | changes) == 0
    return list(TOLD)


@pytest.mark.long
def test_trainer_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = noted("fit", tmp_path)
    at_start, *rollouts = [(0, 6, 0)], (0, 6, 0), (2, 6, 0), (2, 6, 0), (4, 6, 0), (4, 6, 1), (6, 6, 1)
    assert fit == [*at_start, *rollouts]
    assert "the run ends with the last whole rollout, after 6 steps" in capsys.readouterr().out
    source = json.dumps({"class_path": "ArithmeticTasks", "init_args": {"count": 2}})
    for command in ("validate", "test", "predict"):
        sets = {} if command == "validate" else {f"data__{command}": source}
        assert noted(command, tmp_path, ckpt_path="last", **sets) == [(6, 6, 1)]
        assert noted(command, tmp_path, **sets) == [(0, 6, 0)]


def test_limited_by_rollouts(tmp_path: Path) -> None:
    limits = {"trainer__max_steps": None, "model__updates__max_rollouts": 1}
    assert noted("fit", tmp_path, **limits)[-1] == (2, 2, 0)

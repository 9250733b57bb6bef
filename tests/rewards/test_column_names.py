"""Data columns called like arguments of reward functions: refused before sampling, where the function asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.rewards import RewardFunction, RewardSum, StepRewardFunction
from lgrpo_lightning.rewards.function_call import PASSED
from lgrpo_lightning.testing import toy_group, toy_tree
from tests.runs import lgrpo

HOME = "tests.rewards.sample_functions"
RESERVED = [*PASSED, "completion"]


def taking(name: str, default: str = "") -> Callable[..., list[float]]:
    """A reward function with an argument of that name."""
    others = "" if name == "completions" else "completions, "
    space: dict[str, Any] = {}
    exec(f"def asks({others}{name}{default}, **columns):\n    return [0.0] * len(completions)", space)
    found: Callable[..., list[float]] = space["asks"]
    return found


@pytest.mark.parametrize("name", RESERVED)
def test_a_column_that_the_function_asks_for_is_refused(name: str) -> None:
    model = RewardSum([RewardFunction(taking(name, "=None"))])
    model.check_row({"prompt": "1+1=", "answer": 2})
    with pytest.raises(ValueError, match=rf"'asks' takes {name}, and the data has a column of that name"):
        model.check_row({"prompt": "1+1=", name: 1})


@pytest.mark.parametrize("name", RESERVED)
def test_a_column_that_nobody_asks_for_is_left_alone(name: str) -> None:
    def everything(**columns: Any) -> list[float]:
        assert columns["completions"] == ["a"]
        assert columns["prompts"] == ["1+1="]
        assert columns["completion_ids"] == [[97]]
        assert callable(columns["log_metric"])
        assert "completion" not in columns
        return [0.0]

    def nothing(completions: list[str]) -> list[float]:
        return [0.0]

    group = toy_group(["a"], columns={name: 1}, prompt="1+1=")
    for function in (everything, nothing):
        model = RewardFunction(function)
        if (function, name) != (nothing, "completions"):
            model.check_row({"prompt": "1+1=", name: 1})
        assert model.score_batch([group], [toy_tree(group)])[0].outcome.tolist() == [0.0]


@pytest.mark.parametrize("name", ["prompt", "completion"])
def test_an_argument_that_is_never_passed_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'asks' takes {name}, which is never passed"):
        RewardFunction(taking(name))
    RewardFunction(taking(name, "=None")).check_row({"prompt": "1+1="})
    RewardFunction(taking(name), kwargs={name: 1})


@pytest.mark.parametrize("name", ["prompts", "steps", "prefixes", "trainer_state", "log_metric", "completion"])
def test_a_step_function_too(name: str) -> None:
    def asks(
        steps: Any,
        prompts: Any,
        prefixes: Any,
        trainer_state: Any = None,
        log_metric: Any = None,
        completion: Any = None,
    ) -> list[float]:
        return [0.0] * len(steps)

    model = StepRewardFunction(asks)
    with pytest.raises(ValueError, match=rf"'asks' takes {name}, and"):
        model.check_row({"prompt": "1+1=", name: 1})
    model.check_row({"prompt": "1+1=", "completions": 1, "log_extra": 1})
    with pytest.raises(ValueError, match="takes completion_ids, which is never passed"):
        StepRewardFunction(lambda steps, completion_ids: [0.0] * len(steps))


def test_the_row_is_named_before_sampling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+1=", "completions": "2"}) + "\n" for n in range(8)))
    changes = {
        "data__train": path,
        "data.train.init_args.count": None,
        "model.reward_model": "RewardFunction",
        "model.reward_model.function": f"{HOME}.only_completions",
    }
    assert lgrpo("fit", tmp_path / "run", **changes) == 2
    said = capsys.readouterr().err
    assert "row 0 (from 0): reward function 'only_completions' takes completions" in said
    assert not (tmp_path / "run" / "rollouts").exists()

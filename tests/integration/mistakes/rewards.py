"""Rewards that cannot be found, called or used."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.mistakes.case import BadInput, component, own

ROWS = "".join(json.dumps({"prompt": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(6))

REWARDS = '''"""Reward functions with one mistake each."""
threshold = 0.5
def brevity(completions, **columns):
    return [-len(c) for c in completions]
def by_level(completions, level):
    return [float(x) for x in level]
def positional(completions, answer, /):
    return [0.0] * len(completions)
def too_short(completions, **columns):
    return [1.0]
def infinite(completions, **columns):
    return [float("inf")] * len(completions)
def words(completions, **columns):
    return ["good"] * len(completions)
def divides(completions, **columns):
    return [1 / 0 for c in completions]
def forgets(completions, **columns):
    [0.0] * len(completions)
'''


def function(name: str, **init_args: Any) -> dict[str, Any]:
    """``model.reward_model``: a function of the working folder."""
    return {"model.reward_model": component("RewardFunction", function=f"my_rewards.{name}", **init_args)}


REWARD = {
    "no such function": BadInput(
        says=("'my_rewards.brevty'", "Did you mean 'brevity'"),
        did="`function: my_rewards.brevty`",
        config=function("brevty"),
    ),
    "a file in place of a function": BadInput(
        says=("'my_rewards.py' names a file", "'my_rewards.function'"),
        did="`function: my_rewards.py`",
        config={"model.reward_model": component("RewardFunction", function="my_rewards.py")},
    ),
    "no such module": BadInput(
        says=("no module 'rewards_of_mine'", "working directory"),
        did="`function: rewards_of_mine.brevity`",
        config={"model.reward_model": component("RewardFunction", function="rewards_of_mine.brevity")},
    ),
    "no path": BadInput(
        says=("'brevity' is no import path", "package.module.function"),
        did="`function: brevity`",
        config={"model.reward_model": component("RewardFunction", function="brevity")},
    ),
    "no function": BadInput(
        says=("RewardFunction needs a function", "threshold"),
        did="`function: my_rewards.threshold`, a number",
        config=function("threshold"),
    ),
    "wrong signature": BadInput(
        says=("'positional'", "by position only", "by keyword"),
        did="a function that takes its arguments by position only",
        config=function("positional"),
    ),
    "kwargs": BadInput(
        says=("'by_level'", "treshold", "it takes ['level']"),
        did="`kwargs: {treshold: 1}` for a function without such an argument",
        config=function("by_level", kwargs={"treshold": 1}),
    ),
    "too few": BadInput(
        says=("'too_short' returned 1 values", "8 numbers"),
        did="a function that returns one number for all completions",
        config=function("too_short"),
        rollouts=True,
    ),
    "nothing": BadInput(
        says=("'forgets' returned a NoneType", "8 numbers"),
        did="a function without a `return`",
        config=function("forgets"),
        rollouts=True,
    ),
    "infinite": BadInput(
        says=("'infinite'", "prompt 'train/", "infinity"),
        did="a function that returns `inf`",
        config=function("infinite"),
        rollouts=True,
    ),
    "words": BadInput(
        says=("'words' returned 'good'", "completion 0 of prompt 'train/", "8 numbers"),
        did="a function that returns words",
        config=function("words"),
        rollouts=True,
    ),
    "exception": BadInput(
        says=(
            "'divides' failed with ZeroDivisionError",
            "my_rewards.py, line 16",
            "the first prompts: train/",
        ),
        did="a function that raises",
        config=function("divides"),
        rollouts=True,
    ),
    "regular expression": BadInput(
        says=("FormatMatch: pattern is '('", "regular expression"),
        did='`pattern: "("` of `FormatMatch`',
        config={"model.reward_model": component("FormatMatch", pattern="(")},
    ),
    "no answer": BadInput(
        says=("prompts.jsonl, row 5", "ExactMatch: there is no answer in column 'answer'"),
        did="`answer` of one row is null",
        config=own(),
        files={"prompts.jsonl": ROWS.replace("6}", "null}")},
    ),
}
